"""Sampling in other processes: what a trainer and its samplers say to one another.

A message is a JSON object and arrays, as bytes: nothing that is received is run. Both sides prove
that they know the secret $FADE_JAX_SECRET (the HMAC challenge of multiprocessing.connection), and
nothing is encrypted: for machines of one cluster. Imports config alone. Above: samplers, sampler.
"""

import json
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ConfigError

SECRET = "FADE_JAX_SECRET"
_PART = 2**30  # bytes of one message of the connection, whose length is 32 bits on some systems


class SamplerError(RuntimeError):
    """A process that samples has gone, or has refused; the run can go on with another."""


def secret() -> bytes:
    """Returns what both sides must know.

    Raises:
      ConfigError: if the environment does not have it.
    """
    found = os.environ.get(SECRET, "")
    if not found:
        raise ConfigError(f"${SECRET} must be the same text for the trainer and all samplers")
    return found.encode()


def parse_address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT.

    Raises:
      ConfigError: for anything else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"the address of a sampler must be HOST:PORT, got {text!r}")
    return host, int(port)


def send(connection: Connection, header: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
    """Sends a JSON object and arrays; each is copied to the host when its turn comes."""
    shapes = [(jnp.dtype(array.dtype).name, array.shape) for array in arrays]
    connection.send_bytes(json.dumps(header | {"arrays": shapes}).encode())
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, max(data.size, 1), _PART):
            connection.send_bytes(memoryview(data[start : start + _PART]))  # type: ignore[arg-type]


def receive(connection: Connection) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Receives what `send` has sent.

    Raises:
      EOFError: if the other side has closed the connection.
    """
    header = json.loads(connection.recv_bytes())
    arrays = []
    for dtype, shape in header.pop("arrays"):
        array = np.empty(shape, jnp.dtype(dtype))
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, max(flat.size, 1), _PART):
            part = connection.recv_bytes()
            flat[start : start + _PART] = np.frombuffer(part, np.uint8)
        arrays.append(array)
    return header, arrays


class RemoteSamplers:
    """Connections to processes that sample, each its own rows of every batch."""

    def __init__(self, addresses: Sequence[str], hello: dict[str, Any]):
        """Connects, and tells every process what it samples from.

        Args:
          addresses: HOST:PORT of each.
          hello: see sampler.Setup; `rows` of all of them, and `first`, are added.

        Raises:
          ConfigError: for an address that is none, or without a secret.
          SamplerError: if a process cannot be reached.
        """
        self._addresses, key, self._connections = list(addresses), secret(), []
        self._threads = ThreadPoolExecutor(len(self._addresses), "remote-sampler")
        rows = hello["prompts"] // len(self._addresses)
        for i, address in enumerate(self._addresses):
            place = parse_address(address)
            try:
                self._connections.append(Client(place, authkey=key))
            except (OSError, EOFError, AuthenticationError) as error:
                self.close()
                raise SamplerError(
                    f"the sampler at {address} must be there and have the same ${SECRET}: {error}"
                ) from error
            self._ask(i, hello | {"first": i * rows, "rows": rows})

    def _ask(self, index: int, header: dict, arrays: Sequence[Any] = ()) -> list[np.ndarray]:
        connection = self._connections[index]
        try:
            send(connection, header, arrays)
            answer, found = receive(connection)
        except (OSError, EOFError) as error:
            raise SamplerError(f"the sampler at {self._addresses[index]} has gone: {error}") from (
                error
            )
        if "error" in answer:
            raise SamplerError(f"the sampler at {self._addresses[index]}: {answer['error']}")
        return found

    def _ask_all(self, requests: Sequence[tuple[dict, Sequence[Any]]]) -> list[list[np.ndarray]]:
        indices = range(len(self._addresses))
        return list(self._threads.map(lambda i: self._ask(i, *requests[i]), indices))

    def send_weights(self, params: Any) -> None:
        """Sends parameters to every process; they replace those before them."""
        message = {"kind": "weights"}, jax.device_get(jax.tree.leaves(params))
        self._ask_all([message] * len(self._addresses))

    def sample(self, key: jax.Array, prompts: Any, step: int, index: int) -> list[np.ndarray]:
        """Samples the rows of one round of a step.

        Args:
          key: base key of the run.
          prompts: tokens [P, S] and length [P].
          step: of the rollouts.
          index: round of resampling.

        Returns:
          The arrays of Rollouts, [P, G, T] each.
        """
        header = {"kind": "sample", "step": int(step), "round": int(index)}
        header["key"] = np.asarray(jax.random.key_data(key)).tolist()
        arrays = [np.asarray(prompts.tokens), np.asarray(prompts.length)]
        parts = [np.split(array, len(self._addresses)) for array in arrays]
        found = self._ask_all([(header, share) for share in zip(*parts, strict=True)])
        return [np.concatenate(share) for share in zip(*found, strict=True)]

    def close(self) -> None:
        """Closes the connections; the processes wait for the next trainer."""
        for connection in self._connections:
            # Closing alone would neither wake a thread that reads nor tell the process.
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()
