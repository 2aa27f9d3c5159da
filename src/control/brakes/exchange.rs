//! In which order a kept hold is replaced by another one: a pure plan.

/// What a service manager is to forget and to store, by number and in this order,
/// so that a crash in between loses no hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) before: Vec<u32>,
    pub(super) store: Option<u32>,
    pub(super) after: Vec<u32>,
    /// Whether there is room for all of it, as far as the manager says.
    pub(super) fits: bool,
}

impl Exchange {
    /// For a hold of which these numbers are kept, beside so many of others. `same`
    /// is whether they are the generation that is to be kept.
    pub(super) fn plan(same: bool, kept: &[u32], others: usize, room: Option<usize>) -> Self {
        let [_, rest @ ..] = kept else {
            return Self::anew(kept, others, room);
        };
        let next = kept.last().map(|it| it.saturating_add(1));
        match room {
            _ if !same => Self::anew(kept, others, room),
            // If there is no room, the new one is not taken: the first one stays,
            // whose reason may be older.
            None => Self {
                before: rest.to_vec(),
                store: next,
                after: Vec::new(),
                fits: true,
            },
            Some(room) if others + kept.len() < room => Self {
                before: Vec::new(),
                store: next,
                after: kept.to_vec(),
                fits: true,
            },
            // No room for two: what is kept stays.
            Some(_) => Self {
                fits: true,
                ..Self::default()
            },
        }
    }

    /// What is kept is no good.
    fn anew(kept: &[u32], others: usize, room: Option<usize>) -> Self {
        Self {
            before: with_first(kept),
            store: Some(1),
            after: Vec::new(),
            fits: room.is_none_or(|room| others < room),
        }
    }

    /// What is kept when it is done.
    pub(super) fn outcome(&self, kept: &[u32]) -> Vec<u32> {
        let gone = |it: &u32| self.before.contains(it) || self.after.contains(it);
        let mut numbers: Vec<_> = kept.iter().copied().filter(|it| !gone(it)).collect();
        numbers.extend(self.store.filter(|_| self.fits));
        numbers
    }
}

/// These numbers, and the first one, which may be kept although nobody knows.
pub(super) fn with_first(numbers: &[u32]) -> Vec<u32> {
    let others = numbers.iter().copied().filter(|it| *it != 1);
    std::iter::once(1).chain(others).collect()
}
