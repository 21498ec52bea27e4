//! Templates of the billing page and the operator's console.
