"""Where the time of a piece of work goes, by the operations of its compiled program."""
