"""The steps of a drafter: each step is a function of plain arguments that returns a value and writes a folder."""
