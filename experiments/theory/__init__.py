"""What the decomposition alone predicts of a sweep, before its runs, and how it compares after.

On-policy the expected gradient of a prompt depends on the advantage only through its expected
weight, E ĝ = h(p) ∇p. With one logit z = log(p/q) for each prompt, a softmax over {success,
failure}, ∂p/∂z = pq, and with the prompts independent of each other:

    dz_i/dt = κ h(p_i) p_i q_i,   κ = 1 / √E_f[(h p q)²]

h is the exact one of the finite group, by `fade_jax.decomposition.expected_weight`; nothing in it
is fitted to a result. κ gives every method the same root mean square step of the logits at every
moment: Adam divides a constant factor of the gradient out, and so the comparison does too. A
method with a schedule, such as FADE, is asked at each step with the mean solve rate of the model.

What goes in: the counts of every held-out prompt before training (`start`), the advantages and the
group size of the sweep, and one number that turns the model's time into steps, the pass@1 that a
named run of another sweep reached (`prediction`). Only schedules depend on that last number.

What cannot come out:

* pass@k never falls: h ≥ 0 for every advantage of the sweeps, so every p rises. A pass@100 that
  falls measures what is left out: interference between prompts that share weights, and noise.
* Two advantages of one h (REINFORCE, RLOO, NSR) tie. Where they do not, variance, finite steps,
  clipping or the optimiser does it: `configs/sweeps/isolate_delta.py`.
* δ of FADE: the model has no entropy. It stays at the initial one, so δ = 1, unless an entropy is
  given as a function of the solve rates.

For the case of interference there is a third quantity, the share of the gradient that goes to
prompts that are mostly solved, E_f[h p q 1(p > 1/2)] / E_f[h p q]: what raises them further moves
the weights that the others share, and adds nothing to their own pass@100. Less of it should keep
more pass@100.
"""
