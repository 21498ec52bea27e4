//! HTTP, thin: parse, authorise, call one workflow or query, render.
