//! Three-valued logic: what can be said about a condition when not everything is known.

/// Whether a condition holds (Kleene's strong logic of three values).
///
/// What is missing of an [`Unknown`](Self::Unknown) condition may make it true or false, so it is taken
/// for neither: a rule that lets somebody past needs [`True`](Self::True), one that denies already
/// denies when it is not [`False`](Self::False). Negation leaves it unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It does not hold.
    False,
    /// It holds.
    True,
    /// It cannot be told, for want of this.
    Unknown(Missing),
}

/// What is missing to tell whether a condition holds. Of several things that are missing, the last in
/// this order counts: with it something may change, and the visitor can be asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// A fact that nothing the visitor does can bring: no database of countries, no request at a TCP
    /// service, an authority that says nothing about groups.
    Fact,
    /// Any proof of who the visitor is.
    Proof,
    /// That the visitor signs in.
    SignIn,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Truth {
    /// What the negation is.
    #[must_use]
    pub const fn negated(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::True => Self::False,
            Self::Unknown(missing) => Self::Unknown(missing),
        }
    }
}
