"""Does it predict, imitate and optimize?  Every claim about the model is a figure made here."""
