//! A value that many watch: each sees the newest, and may skip some.
//!
//! As `tokio::sync::watch`, whose names it has; but that one spreads those who wait over several lists *at random*, so
//! that they are woken in an order that no seed repeats. Here they are woken in the order in which they began to wait.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::{RwLock, RwLockReadGuard};
use thiserror::Error;
use tokio::sync::Notify;

/// Every sender is gone, and nothing that was not seen is left.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("nobody is left who could change the value")]
pub struct Closed;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    /// Grows with every change, under the lock.
    version: AtomicU64,
    senders: AtomicUsize,
    changed: Notify,
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value. A receiver has seen what there was when it was made.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value, for a short look: nobody can change it meanwhile. Do not hold it across an await.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value with one sender and one receiver to begin with.
#[must_use]
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            changed: Notify::new(),
        }))
    }

    /// Another value; the old one is returned.
    pub fn send_replace(&self, value: T) -> T {
        let mut value = value;
        self.send_modify(|present| std::mem::swap(present, &mut value));
        value
    }

    /// Changes the value in place.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value in place; whoever watches is told only if `modify` returns true.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.0.value.write();
            if !modify(&mut value) {
                return false;
            }
            self.0.version.fetch_add(1, Ordering::Release);
        }
        self.0.changed.notify_waiters();
        true
    }

    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }

    /// A receiver that has seen the present value.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.version.load(Ordering::Acquire);
        Receiver { shared: self.0.clone(), seen }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    /// The present value. It does not count as seen.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.value.read())
    }

    /// The present value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        Ref(value)
    }

    /// Whether there is a value that was not seen.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn has_changed(&self) -> Result<bool, Closed> {
        let unseen = self.shared.version.load(Ordering::Acquire) != self.seen;
        if unseen || self.shared.senders.load(Ordering::Acquire) > 0 { Ok(unseen) } else { Err(Closed) }
    }

    /// Waits for a value that was not seen; it then counts as seen. Cancel safe.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before the look, it is woken by every change after it.
            let changed = self.shared.changed.notified();
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::Acquire) == 0 {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits until the value, seen or not, meets a condition; it then counts as seen. Cancel safe.
    ///
    /// # Errors
    /// [`Closed`] if it never can.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        let Self { shared, seen } = self;
        loop {
            let changed = shared.changed.notified();
            let closed = shared.senders.load(Ordering::Acquire) == 0;
            {
                let value = shared.value.read();
                *seen = shared.version.load(Ordering::Acquire);
                if condition(&value) {
                    return Ok(Ref(value));
                }
            }
            if closed {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::{Clock, TaskScope};

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_newest_wins() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(receiver.has_changed(), Ok(false));
        assert_eq!(sender.send_replace(2), 1);
        sender.send_modify(|value| *value += 1);
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 3);
        assert_eq!(receiver.has_changed(), Ok(false));
        let mut late = sender.subscribe();
        assert_eq!(late.has_changed(), Ok(false));
        assert_eq!(*late.wait_for(|value| *value == 3).await.unwrap(), 3);
        sender.send_replace(4);
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()), "the last value is still seen");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(late.wait_for(|value| *value == 9).await.map(|value| *value), Err(Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn watchers_are_woken_in_the_order_in_which_they_came() {
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let sender = Sender::new(0);
        let tasks = TaskScope::single_threaded();
        for number in 0..50 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            tasks.spawn(async move {
                let _ = receiver.wait_for(|value| *value == 7).await;
                order.lock().push(number);
            });
        }
        Clock::system().sleep(Duration::from_millis(1)).await;
        sender.send_replace(7);
        Clock::system().sleep(Duration::from_millis(1)).await;
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    }
}
