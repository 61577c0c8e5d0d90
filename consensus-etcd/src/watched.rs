//! A value that tasks wait on. Unlike `tokio::sync::watch`, it wakes them in the order in which they began to wait, so
//! that a simulation can be replayed.

use std::pin::pin;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The value and who waits for it to change.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    /// Counts the changes.
    state: Mutex<(u64, T)>,
    changed: Notify,
}

/// One who watches.
#[derive(Debug)]
pub(crate) struct Watcher<'a, T> {
    watched: &'a Watched<T>,
    seen: u64,
}

impl<T: Clone> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { state: Mutex::new((0, value)), changed: Notify::new() }
    }

    pub(crate) fn get(&self) -> T {
        self.state.lock().1.clone()
    }

    pub(crate) fn set(&self, value: T) {
        self.modify(|old| *old = value);
    }

    pub(crate) fn modify(&self, change: impl FnOnce(&mut T)) {
        {
            let (version, value) = &mut *self.state.lock();
            change(value);
            *version += 1;
        }
        self.changed.notify_waiters();
    }

    /// A watcher that has seen the present value.
    pub(crate) fn watch(&self) -> Watcher<'_, T> {
        Watcher { watched: self, seen: self.state.lock().0 }
    }
}

impl<T: Clone> Watcher<'_, T> {
    /// The present value, which counts as seen.
    pub(crate) fn look(&mut self) -> T {
        let (version, value) = &*self.watched.state.lock();
        self.seen = *version;
        value.clone()
    }

    /// Waits for a change since the last look. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let mut changed = pin!(self.watched.changed.notified());
            changed.as_mut().enable();
            let version = self.watched.state.lock().0;
            if version != self.seen {
                self.seen = version;
                return;
            }
            changed.await;
        }
    }

    /// Waits until the value is as `wanted`, which it may be already. Cancel safe.
    pub(crate) async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> T {
        loop {
            let value = self.look();
            if wanted(&value) {
                return value;
            }
            self.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_missed() {
        let watched = Watched::new(1);
        let mut watcher = watched.watch();
        watched.set(2);
        watcher.changed().await;
        assert_eq!(watcher.look(), 2);
        let waited = async { watcher.wait_for(|value| *value == 4).await };
        let (value, ()) = tokio::join!(waited, async {
            for value in [3, 4] {
                watched.set(value);
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(value, 4);
    }
}
