//! What waits to be done by a long-lived task: everything since it last looked, once each.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A list that one task empties and anybody fills. It is bounded by what can be in it: whoever pushes makes sure that
/// a thing is in it once.
#[derive(Debug)]
pub struct Backlog<T> {
    items: Mutex<Vec<T>>,
    filled: Notify,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self { items: Mutex::new(Vec::new()), filled: Notify::new() }
    }
}

impl<T> Backlog<T> {
    /// Adds one.
    pub fn push(&self, item: T) {
        let mut items = self.items.lock();
        items.push(item);
        // Whoever empties the list takes all of it, so that one wake is enough.
        if items.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Everything, in the order in which it came; waits until there is something. For one task. Cancel safe.
    pub async fn take(&self) -> Vec<T> {
        loop {
            let filled = self.filled.notified();
            let items = self.take_now();
            if !items.is_empty() {
                return items;
            }
            filled.await;
        }
    }

    /// Everything that is there.
    #[must_use]
    pub fn take_now(&self) -> Vec<T> {
        std::mem::take(&mut *self.items.lock())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_is_pushed_before_and_while_waiting_is_taken_once() {
        let backlog = Arc::new(Backlog::default());
        backlog.push(1);
        backlog.push(2);
        assert_eq!(backlog.take().await, [1, 2]);
        #[expect(clippy::disallowed_methods, reason = "a test of waiting needs a second task")]
        let waiting = tokio::spawn({
            let backlog = backlog.clone();
            async move { backlog.take().await }
        });
        tokio::task::yield_now().await;
        backlog.push(3);
        assert_eq!(waiting.await.unwrap(), [3]);
        assert!(backlog.take_now().is_empty());
    }
}
