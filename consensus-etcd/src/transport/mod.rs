//! The connection to etcd: one client for each endpoint, made and dropped here; requests go to one endpoint until it
//! fails, then to the next.

mod endpoint;
mod errors;
mod probe;
mod requests;

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity, TlsOptions, WatchOptions, WatchStream,
};
use quorate_core::{
    consensus::Peer,
    runtime::{Disk, Open, Runtime},
};

use crate::{
    config::{EtcdConfig, Tls},
    storage::{Lease, Page, Range, Refusal, Revision, Store, StoreError, Txn, TxnReply, Watch},
};
use endpoint::{Access, ClientOptions, Endpoint};
use errors::classify;
pub(crate) use probe::probe;

/// The largest answer that is decoded. A page that is larger is asked for again with fewer entries; one entry always
/// fits.
const ANSWER_BYTES: usize = 16 << 20;

/// A connection to a real etcd.
pub(crate) struct Connection {
    endpoints: Vec<Endpoint>,
    /// Where requests go. Only ever grows; taken modulo the number of endpoints.
    current: AtomicUsize,
    options: ClientOptions,
    /// For a request that carries data.
    request_timeout: Duration,
    /// For a request that must be answered well within the lease.
    lease_timeout: Duration,
    runtime: Runtime,
}

impl Connection {
    /// Reads the TLS files, connects nowhere.
    pub(crate) fn new(config: &EtcdConfig) -> Result<Self, String> {
        let ttl = config.lease_ttl;
        let (request_timeout, lease_timeout) = (ttl / 3, (ttl / 6).max(Duration::from_millis(500)));
        let options = ConnectOptions::new()
            .with_connect_timeout(lease_timeout)
            // More often than every 5 s, etcd closes the connection.
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(3))
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let encrypted =
            config.tls.is_some() || config.endpoints.iter().any(|url| url.starts_with("https://"));
        let tls = config.tls.clone().unwrap_or_default();
        let anonymous =
            if encrypted { options.with_tls(tls_options(&tls, &*config.runtime.disk)?) } else { options };
        let options = ClientOptions { anonymous, user: config.credentials.clone() };
        let endpoints = config.endpoints.iter().map(|url| Endpoint::new(url, encrypted)).collect();
        let runtime = config.runtime.clone();
        Ok(Self { endpoints, current: AtomicUsize::new(0), options, request_timeout, lease_timeout, runtime })
    }

    /// One attempt at one endpoint. A failure that says nothing about the request moves on to the next endpoint.
    async fn call<T, F>(
        &self,
        limit: Duration,
        access: Access,
        operation: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let at = self.current.load(Ordering::Relaxed);
        let Some(endpoint) = self.endpoints.get(at % self.endpoints.len().max(1)) else {
            return Err(StoreError::Unknown("no endpoint is configured".to_owned()));
        };
        let attempt = async {
            let client = endpoint.client(&self.options).await?;
            operation(client).await
        };
        let outcome = match self.runtime.clock.timeout(limit, attempt).await {
            Ok(outcome) => outcome.map_err(|error| classify(&error)),
            Err(_) => Err(StoreError::Unknown(format!("no answer within {} ms", limit.as_millis()))),
        };
        endpoint.note(access, self.runtime.clock.now(), outcome.as_ref().err());
        if matches!(outcome, Err(StoreError::Unknown(_))) {
            endpoint.forget();
            let next = at.wrapping_add(1);
            let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        outcome.map_err(|error| endpoint.name(error))
    }
}

#[async_trait]
impl Store for Connection {
    async fn txn(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let request = requests::txn(txn);
        let access = if txn.writes() { Access::Write } else { Access::Read };
        let operation = |client: Client| async move {
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
            kv.txn(request).await
        };
        let reply = self.call(self.request_timeout, access, operation).await;
        match reply {
            Ok(reply) => Ok(requests::txn_reply(&reply)),
            // The transaction may have been carried out, and only its answer was too large.
            Err(StoreError::Refused(Refusal::PageTooLarge, why)) => Err(StoreError::Unknown(why)),
            Err(error) => Err(error),
        }
    }

    async fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let (key, options) = requests::get(range);
        let operation = |client: Client| async move {
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
            kv.get(key, Some(options)).await
        };
        Ok(requests::page(&self.call(self.request_timeout, Access::Read, operation).await?))
    }

    async fn grant(&self, ttl_s: i64) -> Result<(Lease, i64), StoreError> {
        let operation = |mut client: Client| async move { client.lease_grant(ttl_s, None).await };
        let granted = self.call(self.lease_timeout, Access::Lease, operation).await?;
        Ok((granted.id(), granted.ttl()))
    }

    async fn revoke(&self, lease: Lease) -> Result<(), StoreError> {
        let operation = |mut client: Client| async move { client.lease_revoke(lease).await };
        match self.call(self.lease_timeout, Access::Lease, operation).await {
            Ok(_) | Err(StoreError::Refused(Refusal::LeaseGone, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn keep_alive(&self, lease: Lease) -> Result<(), StoreError> {
        // A stream for each keep-alive: an answer can then not belong to an earlier one.
        let operation = |mut client: Client| async move { client.lease_keep_alive(lease).await.map(|_| ()) };
        self.call(self.lease_timeout, Access::Lease, operation).await
    }

    async fn watch(&self, ranges: &[Range], after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let ranges = ranges.to_vec();
        let operation = |mut client: Client| async move {
            let mut stream: Option<WatchStream> = None;
            for Range { from, to, .. } in ranges {
                let options =
                    WatchOptions::new().with_start_revision(after.saturating_add(1)).with_progress_notify();
                let options = Some(if let Some(to) = to { options.with_range(to) } else { options });
                match &mut stream {
                    None => stream = Some(client.watch(from, options).await?),
                    Some(stream) => stream.watch(from, options).await?,
                }
            }
            stream.ok_or_else(|| Error::InvalidArgs("nothing to watch".to_owned()))
        };
        let stream = self.call(self.lease_timeout, Access::Read, operation).await?;
        Ok(Box::new(Watching(stream)))
    }

    fn peers(&self) -> Vec<Peer> {
        let now = self.runtime.clock.now();
        self.endpoints.iter().map(|endpoint| endpoint.peer(now)).collect()
    }
}

struct Watching(WatchStream);

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<(), StoreError> {
        loop {
            match self.0.message().await {
                Ok(Some(message)) if message.canceled() => {
                    return Err(StoreError::Refused(Refusal::Compacted, message.cancel_reason().to_owned()));
                }
                Ok(Some(message)) if !message.events().is_empty() => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err(StoreError::Unknown("etcd closed the watch".to_owned())),
                Err(error) => return Err(classify(&error)),
            }
        }
    }
}

fn tls_options(tls: &Tls, disk: &dyn Disk) -> Result<TlsOptions, String> {
    let mut options = TlsOptions::new();
    options = match &tls.ca_file {
        Some(file) => options.ca_certificate(Certificate::from_pem(read(disk, file)?)),
        None => options.with_enabled_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        options = options.identity(Identity::from_pem(read(disk, cert)?, read(disk, key)?));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(options)
}

/// No PEM file of a certificate or key is larger.
const PEM_BYTES: u64 = 1 << 20;

fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = disk.open(path, Open::Read).map_err(failed)?;
    let len = file.len().map_err(failed)?.min(PEM_BYTES);
    let mut contents = vec![0; usize::try_from(len).unwrap_or(0)];
    let count = file.read_at(&mut contents, 0).map_err(failed)?;
    contents.truncate(count);
    Ok(contents)
}

/// Shared by the tasks of one backend.
pub(crate) type SharedConnection = Arc<Connection>;
