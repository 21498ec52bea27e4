//! Bad input: one clear answer for each, and nothing lost. The rows' numbers are those of the table of answers.
