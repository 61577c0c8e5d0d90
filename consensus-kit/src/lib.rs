//! What in-process consensus backends share: a durable log of votes and entries, a framed peer transport, founding.
