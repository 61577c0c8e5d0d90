//! What a backend declares that it can do.

/// One ability, as a bit of the table's `capabilities`. What a library does not declare is not asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum Capability {
    /// A fresh cluster is founded by all its voters.
    Founders = 1 << 0,
    /// The nodes vote, so that their majority is what a leader needs.
    Votes = 1 << 1,
    /// A leader that shuts down or resigns hands over.
    HandOver = 1 << 2,
    /// A node that was cut off does not disturb a healthy leader when it returns.
    PreVote = 1 << 3,
    /// A node keeps files in its folder.
    Folder = 1 << 4,
    /// There is a quorum outside of the nodes.
    External = 1 << 5,
    /// Voters can be added and removed.
    Membership = 1 << 6,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Founders,
        Self::Votes,
        Self::HandOver,
        Self::PreVote,
        Self::Folder,
        Self::External,
        Self::Membership,
    ];

    /// Its bit.
    #[must_use]
    pub const fn bit(self) -> u64 {
        self as u64
    }

    /// Its name, as reports write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Founders => "founders",
            Self::Votes => "votes",
            Self::HandOver => "hand-over",
            Self::PreVote => "pre-vote",
            Self::Folder => "folder",
            Self::External => "external",
            Self::Membership => "membership",
        }
    }
}
