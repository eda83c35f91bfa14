//! kakuremichi-control.
