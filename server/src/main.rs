//! The broker process.
mod backend;
mod cli;
mod config;
mod exit;
mod fetch_page;
mod http;
mod leadership;
mod listener;
mod logging;
mod parent;
mod readiness;
mod version;
fn main() {}
