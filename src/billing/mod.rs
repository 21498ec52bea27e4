//! What is owed: pure functions of plain values. No I/O, no clock, no ids.
