"""The steps of a drafter, a function each: plain arguments in, a value back, a folder left."""
