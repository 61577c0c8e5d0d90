//! One endpoint of etcd: its client, and how it is.

use etcd_client::{Client, ConnectOptions, Error};
use parking_lot::Mutex;
use quorate_core::{consensus::Peer, runtime::Moment};

use super::errors::no_space;
use crate::{
    config::{Credentials, host_and_port},
    storage::{Refusal, StoreError},
};

/// What a request needs to be permitted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Lease,
}

/// What etcd answers where authentication is off.
const NO_USERS: &str = "etcdserver: authentication is not enabled";

/// How clients are made.
pub(super) struct ClientOptions {
    /// Everything but the user.
    pub(super) anonymous: ConnectOptions,
    pub(super) user: Option<Credentials>,
}

pub(super) struct Endpoint {
    /// `host:port`, for messages and for the check of the port.
    pub(super) address: String,
    pub(super) encrypted: bool,
    url: String,
    /// Locked while a client is made, which may have to authenticate; given up with the attempt.
    client: tokio::sync::Mutex<Option<Client>>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    contact: Option<Moment>,
    /// Why it did not answer; until it answers.
    unreachable: Option<String>,
    /// Why it refused to read, and to write; until it does.
    refused_read: Option<String>,
    refused_write: Option<String>,
    /// What it says of itself.
    alarm: Option<String>,
    /// The client is not to be used again.
    forgotten: bool,
}

impl Endpoint {
    pub(super) fn new(endpoint: &str, encrypted: bool) -> Self {
        let address = host_and_port(endpoint).to_owned();
        let encrypted = encrypted && !endpoint.starts_with("http://");
        let url = format!("{}://{address}", if encrypted { "https" } else { "http" });
        let (client, health) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { address, encrypted, url, client, health }
    }

    /// The client, made if there is none.
    pub(super) async fn client(&self, options: &ClientOptions) -> Result<Client, Error> {
        let mut client = self.client.lock().await;
        if std::mem::take(&mut self.health.lock().forgotten) {
            *client = None;
        }
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let with_user = options.user.as_ref().map(|user| {
            let Credentials { username, password } = user;
            options.anonymous.clone().with_user(username, password)
        });
        let anonymous = || Client::connect([&self.url], Some(options.anonymous.clone()));
        let made = match with_user {
            None => anonymous().await?,
            Some(with_user) => match Client::connect([&self.url], Some(with_user)).await {
                Err(Error::GRpcStatus(status)) if status.message() == NO_USERS => {
                    tracing::warn!(
                        etcd = self.address,
                        "etcd asks for no user; consensus.etcd.username is unused"
                    );
                    anonymous().await?
                }
                made => made?,
            },
        };
        *client = Some(made.clone());
        Ok(made)
    }

    /// Makes the next request connect anew.
    pub(super) fn forget(&self) {
        self.health.lock().forgotten = true;
    }

    /// Takes note of how a request ended.
    pub(super) fn note(&self, access: Access, now: Moment, error: Option<&StoreError>) {
        let mut health = self.health.lock();
        if let Some(StoreError::Unknown(why)) = error {
            if health.unreachable.is_none() {
                health.unreachable = Some(format!("unreachable: {why}"));
            }
            return;
        }
        health.contact = Some(now);
        health.unreachable = None;
        let refused = match error {
            Some(StoreError::Refused(Refusal::Credentials | Refusal::Other, why)) => Some(why.clone()),
            Some(StoreError::Refused(Refusal::NoSpace, why)) => {
                health.alarm = Some(why.clone());
                None
            }
            _ => None,
        };
        match access {
            Access::Read => health.refused_read = refused,
            Access::Write => health.refused_write = refused,
            Access::Lease if refused.is_some() => health.refused_write = refused,
            Access::Lease => {}
        }
    }

    /// Takes note of what a probe found out; `alarms` as etcd words them.
    pub(super) fn probed(&self, now: Moment, found: Result<&[String], String>) {
        let mut health = self.health.lock();
        match found {
            Ok(alarms) => {
                health.contact = Some(now);
                health.unreachable = None;
                let full = alarms.iter().any(|alarm| alarm.contains("NOSPACE"));
                health.alarm = if full { Some(no_space()) } else { alarms.first().cloned() };
            }
            Err(why) => health.unreachable = Some(why),
        }
    }

    /// The error with this endpoint's name, for whoever reads it apart from the status.
    pub(super) fn name(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Unknown(why) => StoreError::Unknown(format!("etcd at {}: {why}", self.address)),
            StoreError::Refused(refusal, why) => {
                StoreError::Refused(refusal, format!("etcd at {}: {why}", self.address))
            }
        }
    }

    pub(super) fn peer(&self, now: Moment) -> Peer {
        let health = self.health.lock();
        let problems = [&health.unreachable, &health.refused_read, &health.refused_write, &health.alarm];
        Peer {
            node: None,
            endpoint: self.address.clone(),
            contact_age: health.contact.map(|contact| now.since(contact)),
            matched: None,
            problem: problems.into_iter().flatten().next().cloned(),
        }
    }
}
