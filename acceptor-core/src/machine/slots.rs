//! Numbered slots for the children of one listener, in chunks, each with a bank.
//!
//! Invariants: a value stays in its slot until it is removed; no operation moves or visits more
//! than one chunk of other values; an empty chunk holds neither memory nor a bank. A few spare
//! chunks are kept for reuse, and the memory of a past peak is released.

/// The number of slots in a chunk. It is small because a listener with a single acceptor has a
/// whole bank, and smaller under loom, which models every seat of a bank.
pub(crate) const CHUNK: usize = if cfg!(all(test, loom)) { 4 } else { 16 };

/// The number of empty chunks whose memory is kept, so that a listener does not allocate for a few
/// dozen connections that come and go.
const SPARES: usize = 4;

/// The mask of a chunk, with a bit for each slot, that has no vacant slot.
const FULL: u32 = u32::MAX >> (u32::BITS as usize - CHUNK);

/// The part of a chunk's children that other threads reach without the table's lock.
pub(crate) trait Bank {
    /// State shared by the banks of one listener.
    type Signals;
    /// A handle to one child.
    type Control: Clone;

    /// Creates a bank with [`CHUNK`] vacant seats.
    fn new(signals: &Self::Signals) -> Self;

    /// Returns a number for a child, higher than all before.
    fn next_number(signals: &Self::Signals) -> u64;

    /// Sets whether acceptors are held (B4), for readers that have not locked the table.
    fn set_outage(signals: &Self::Signals, holds: bool);

    /// Assigns a slot, in which no state of the previous child is left, to the child with this
    /// number.
    fn occupy(&mut self, slot: u32, number: u64);

    fn control(&self, slot: u32, number: u64) -> Self::Control;

    /// Returns a counter that is odd while the child in this slot is inside a poll or a drop (S8).
    fn mark(&self, slot: u32) -> u32;
}

/// Returns the index of a slot within its bank.
pub(crate) fn place(slot: u32) -> usize {
    slot as usize % CHUNK
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Slots<T, B> {
    chunks: Vec<Chunk<T, B>>,
    /// Chunks with a vacant slot; the next value goes to the last of them.
    available: Vec<u32>,
    /// Spare memory of empty chunks: their vacant slots and their banks.
    spares: Vec<(Vec<Option<T>>, B)>,
    /// The number of chunks that hold a value.
    used: usize,
    len: usize,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Chunk<T, B> {
    slots: Vec<Option<T>>,
    /// `None` for a chunk without values.
    bank: Option<B>,
    occupied: u32,
    /// Whether `available` contains it.
    listed: bool,
}

impl<T, B> Default for Slots<T, B> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            available: Vec::new(),
            spares: Vec::new(),
            used: 0,
            len: 0,
        }
    }
}

impl<T, B> Slots<T, B> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Inserts a value that is made from the slot's number and the bank of its chunk.
    #[inline]
    pub(crate) fn insert_with(
        &mut self,
        new_bank: impl FnOnce() -> B,
        make: impl FnOnce(u32, &mut B) -> T,
    ) -> u32 {
        let index = match self.available.last() {
            Some(index) => *index,
            None => {
                let index = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
                self.chunks.push(Chunk {
                    slots: Vec::new(),
                    bank: None,
                    occupied: 0,
                    listed: true,
                });
                self.available.push(index);
                index
            }
        };
        let chunk = &mut self.chunks[index as usize];
        let vacant = (!chunk.occupied).trailing_zeros() as usize;
        let slot = index * CHUNK as u32 + vacant as u32;
        let bank = match &mut chunk.bank {
            Some(bank) => bank,
            vacant => {
                self.used += 1;
                let (slots, bank) = match self.spares.pop() {
                    Some(spare) => spare,
                    None => (Vec::new(), new_bank()),
                };
                chunk.slots = slots;
                vacant.insert(bank)
            }
        };
        let value = make(slot, bank);
        // The lowest vacant slot is within the chunk's length, or just past its end.
        match chunk.slots.get_mut(vacant) {
            Some(place) => *place = Some(value),
            None => chunk.slots.push(Some(value)),
        }
        chunk.occupied |= 1 << vacant;
        if chunk.occupied == FULL {
            chunk.listed = false;
            self.available.pop();
        }
        self.len += 1;
        slot
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.slots.iter().flatten())
    }

    pub(crate) fn get(&self, slot: u32) -> Option<(&T, &B)> {
        let chunk = self.chunks.get(slot as usize / CHUNK)?;
        let value = chunk.slots.get(place(slot))?.as_ref()?;
        Some((value, chunk.bank.as_ref()?))
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<(&mut T, &mut B)> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?;
        let value = chunk.slots.get_mut(place(slot))?.as_mut()?;
        Some((value, chunk.bank.as_mut()?))
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?;
        let value = chunk.slots.get_mut(place(slot))?.take()?;
        self.vacated(slot);
        Some(value)
    }

    /// Takes the parts to keep out of the value in a slot, and drops the rest in place; `None` if
    /// the value stays.
    #[inline]
    pub(crate) fn vacate<K>(
        &mut self,
        slot: u32,
        take: impl FnOnce(&mut T) -> Option<K>,
    ) -> Option<K> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?;
        let place = chunk.slots.get_mut(place(slot))?;
        let kept = take(place.as_mut()?)?;
        *place = None;
        self.vacated(slot);
        Some(kept)
    }

    /// Marks a slot as vacant.
    #[inline]
    fn vacated(&mut self, slot: u32) {
        let (index, at) = (slot as usize / CHUNK, place(slot));
        let chunk = &mut self.chunks[index];
        chunk.occupied &= !(1 << at);
        if !chunk.listed {
            chunk.listed = true;
            self.available.push(index as u32);
        }
        self.len -= 1;
        if chunk.occupied == 0 {
            self.emptied(index);
        }
    }

    fn emptied(&mut self, index: usize) {
        let chunk = &mut self.chunks[index];
        let slots = std::mem::take(&mut chunk.slots);
        if let Some(bank) = chunk.bank.take() {
            if self.spares.len() < SPARES {
                self.spares.push((slots, bank));
            }
        }
        self.used -= 1;
        self.trim();
    }

    /// Releases the directory's memory of a past peak, once most of it is unused.
    fn trim(&mut self) {
        if self.used * 8 >= self.chunks.len() {
            return;
        }
        let before = self.chunks.len();
        while self.chunks.last().is_some_and(|chunk| chunk.occupied == 0) {
            self.chunks.pop();
        }
        if self.chunks.len() < before {
            let len = self.chunks.len();
            self.available.retain(|index| (*index as usize) < len);
            self.chunks.shrink_to(len * 2);
            self.available.shrink_to(len * 2);
        }
    }

    /// Visits values from a slot on, reading at most `limit` slots. Returns the slot to continue
    /// from, if any.
    pub(crate) fn visit(
        &mut self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(u32, &mut T, &B),
    ) -> Option<usize> {
        let (mut at, mut left) = (from, limit);
        loop {
            let chunk = self.chunks.get_mut(at / CHUNK)?;
            if left == 0 {
                return Some(at);
            }
            left -= 1;
            if chunk.occupied >> (at % CHUNK) == 0 {
                // The rest of this chunk is empty.
                at = (at / CHUNK + 1) * CHUNK;
                continue;
            }
            if let (Some(Some(value)), Some(bank)) = (chunk.slots.get_mut(at % CHUNK), &chunk.bank)
            {
                visit(at as u32, value, bank);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
pub(super) mod testing {
    use std::cell::Cell;

    /// What the banks of a listener share, without threads.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestSignals {
        numbers: Cell<u64>,
        pub(crate) outage: Cell<bool>,
    }

    impl TestSignals {
        pub(crate) fn next_number(&self) -> u64 {
            self.numbers.set(self.numbers.get() + 1);
            self.numbers.get()
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn all(slots: &mut Slots<u32, ()>, limit: usize) -> BTreeMap<u32, u32> {
        let (mut seen, mut from) = (BTreeMap::new(), Some(0));
        while let Some(cursor) = from {
            let mut visited = 0;
            from = slots.visit(cursor, limit, |slot, value, ()| {
                visited += 1;
                assert_eq!(seen.insert(slot, *value), None);
            });
            assert!(visited <= limit);
        }
        seen
    }

    proptest! {
        /// Against a map.
        #[test]
        fn slots_are_a_map(choices in proptest::collection::vec((0..3_u8, any::<u32>()), 0..600)) {
            let (mut slots, mut map) = (Slots::<_, ()>::default(), BTreeMap::new());
            for (choice, value) in choices {
                let key = map.keys().nth(value as usize % map.len().max(1)).copied();
                if choice == 0 {
                    let removed = key.and_then(|key| slots.remove(key));
                    prop_assert_eq!(removed, key.and_then(|key| map.remove(&key)));
                } else if choice == 1 && value % 2 == 0 {
                    if let Some(key) = key {
                        prop_assert_eq!(slots.vacate(key, |_| None::<u32>), None);
                        prop_assert_eq!(slots.vacate(key, |value| Some(*value)), map.remove(&key));
                        prop_assert_eq!(slots.vacate(key, |value| Some(*value)), None);
                    }
                } else {
                    let slot = slots.insert_with(|| (), |slot, ()| slot ^ value);
                    prop_assert_eq!(map.insert(slot, slot ^ value), None);
                }
                prop_assert_eq!(slots.len(), map.len());
            }
            for (slot, value) in &map {
                prop_assert_eq!(slots.get(*slot).map(|(value, ())| value), Some(value));
                prop_assert_eq!(slots.get_mut(*slot).map(|(value, ())| *value), Some(*value));
            }
            for limit in [1, 7, 256] {
                prop_assert_eq!(all(&mut slots, limit), map.clone());
            }
        }
    }

    #[test]
    fn peak_memory_is_released() {
        let mut slots = Slots::<_, ()>::default();
        let kept = slots.insert_with(|| (), |_, ()| 0);
        let peak: Vec<_> = (0..10_000)
            .map(|n| slots.insert_with(|| (), |_, ()| n))
            .collect();
        for slot in peak {
            slots.remove(slot);
        }
        assert_eq!(slots.get(kept), Some((&0, &())));
        let kept_slots = slots.chunks.iter().map(|chunk| &chunk.slots);
        let spare_slots = slots.spares.iter().map(|(slots, _)| slots);
        let capacity: usize = kept_slots.chain(spare_slots).map(Vec::capacity).sum();
        assert!(capacity <= (1 + SPARES) * CHUNK, "{capacity}");
        let banks = slots.chunks.iter().filter(|chunk| chunk.bank.is_some());
        assert_eq!((banks.count(), slots.spares.len()), (1, SPARES));
        assert!(slots.chunks.capacity() <= 16, "{}", slots.chunks.capacity());
        assert!(slots.available.capacity() <= 16);
    }

    /// Values that fit the retained chunks come and go, and use the same banks.
    #[test]
    fn churn_reuses_memory() {
        let (mut slots, made) = (Slots::<_, ()>::default(), Cell::new(0));
        for _ in 0..100 {
            let come = || slots.insert_with(|| made.set(made.get() + 1), |_, ()| 0);
            let all: Vec<_> = std::iter::repeat_with(come).take(SPARES * CHUNK).collect();
            all.into_iter()
                .for_each(|slot| assert_eq!(slots.remove(slot), Some(0)));
        }
        assert_eq!((made.get(), slots.len()), (SPARES, 0));
    }

    #[test]
    fn vacant_slot_is_reused() {
        let mut slots = Slots::<_, ()>::default();
        let first = slots.insert_with(|| (), |_, ()| 1);
        slots.insert_with(|| (), |_, ()| 2);
        slots.remove(first);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.insert_with(|| (), |_, ()| 3), first);
        assert_eq!(slots.remove(u32::MAX), None);
    }

    /// Slots with this many full chunks.
    fn full(chunks: usize) -> Slots<u32, ()> {
        let mut slots = Slots::default();
        for _ in 0..chunks * CHUNK {
            slots.insert_with(|| (), |slot, ()| slot);
        }
        assert_eq!(slots.chunks.len(), chunks);
        slots
    }

    fn empty(slots: &mut Slots<u32, ()>, chunk: usize) {
        for place in 0..CHUNK {
            assert!(slots.remove((chunk * CHUNK + place) as u32).is_some());
        }
    }

    #[test]
    fn directory_shrinks_below_an_eighth() {
        let mut slots = full(17);
        for chunk in (3..17).rev() {
            empty(&mut slots, chunk);
            assert_eq!((slots.used, slots.chunks.len()), (chunk, 17));
        }
        empty(&mut slots, 2);
        assert_eq!((slots.used, slots.chunks.len()), (2, 2));
    }

    /// Otherwise a number of values that varies a little would move the directory each time.
    #[test]
    fn shrunk_directory_has_room_to_grow() {
        let mut slots = full(800);
        for chunk in (0..800).filter(|chunk| *chunk != 50) {
            empty(&mut slots, chunk);
        }
        assert_eq!(slots.chunks.len(), 51);
        let room = 102..=120;
        assert!(room.contains(&slots.chunks.capacity()));
        assert!(room.contains(&slots.available.capacity()));
    }
}
