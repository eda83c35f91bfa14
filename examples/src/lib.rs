//! Examples; see the files of this package.
