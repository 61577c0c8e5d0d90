//! What the controller decides: pure functions of the image, of what is known about the brokers, and of the time. The
//! driver in `broker` performs it; nothing here waits or reads a clock.

mod configs;
mod decide;
mod liveness;
mod placement;
mod refusal;
mod registration;
mod topics;

#[cfg(test)]
mod decide_test;
#[cfg(test)]
mod topics_test;

pub use configs::{ConfigPlan, plan_configs};
pub use decide::{Decision, PRODUCER_ID_BLOCK, decide, opening};
pub use liveness::{Contact, Heartbeat, HeartbeatAnswer, Liveness};
pub use placement::{PlacementError, place};
pub use refusal::Refusal;
pub use registration::{RegistrationPlan, plan_registration};
pub use topics::{TopicPlan, TopicRequest, Topics, plan_deletion, plan_topics};
