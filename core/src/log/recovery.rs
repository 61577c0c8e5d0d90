//! Opening a log: what lies below the recovery point is trusted, what lies past it is read and checked.
//!
//! ```text
//!  | sealed, trusted | sealed, trusted | ....... R --- checked ---> | torn |
//!                                              ^ recovery point       ^ cut here
//! ```
//! Below R a broken batch is damage, since it was durable. Past R the log is the longest valid prefix. If the page
//! cache outlived the last process, a broken batch with a whole one behind it is damage as well: a process that dies
//! tears only what it wrote last.

use std::{io, path::Path};

use super::{
    config::LogConfig,
    durable_index::resume_at,
    epochs::{EPOCH_FILE, EpochCache},
    files::Files,
    log::{Damage, Log, LogParts, Unusable},
    names::{Kind, parse_file_name},
    opening::{Cut, OpenError, Opening, PageCache, Recovery},
    recent::Recent,
    segment::{SEGMENT_BYTES_MAX, Segment},
    truncate::{MARKER, parse_marker},
    walk::{SCAN_BYTES, Walk, WalkError, find_batch},
};
use crate::{ids::Offset, protocol::batch::BatchHeader, runtime::read_file};

/// The largest epoch file that is read, in bytes: half a million epochs.
const EPOCH_BYTES_MAX: u64 = 16 << 20;

/// The largest marker that is read, in bytes.
const MARKER_BYTES_MAX: u64 = 64;

impl Log {
    /// Opens the log in a folder, which is made if it is not there, and recovers it.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is no error: it is in the report, and the log answers [`Unusable::Damaged`].
    pub fn open(
        dir: &Path,
        config: LogConfig,
        parts: &LogParts,
        opening: Opening,
    ) -> Result<(Self, Recovery), OpenError> {
        let files = Files::new(parts.disk.clone(), parts.handles.clone(), dir.to_owned());
        let log = Self {
            files,
            config,
            clock: parts.clock.clone(),
            segments: Vec::new(),
            start: Offset(0),
            end: Offset(0),
            synced: Offset(0),
            recovery_point: Offset(0),
            kept_recovery_point: opening.recovery_point.unwrap_or_default(),
            marked: false,
            epochs: EpochCache::default(),
            generation: 0,
            // The names may be those of a process that died before it synced the folder.
            write: 1,
            names_write: 1,
            appending: false,
            unusable: None,
            health: parts.health.clone(),
            bytes_since_deep_sync: 0,
            epoch_jobs: 0,
            epochs_written: std::sync::Arc::default(),
            recent: Recent::default(),
        };
        let mut opener = Opener { log, opening, report: Recovery::default() };
        match opener.run() {
            Ok(()) => Ok((opener.log, opener.report)),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Io(source)) => Err(opener.log.failure(source).into()),
        }
    }
}

enum Stop {
    Error(OpenError),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Opener {
    log: Log,
    opening: Opening,
    report: Recovery,
}

impl Opener {
    fn run(&mut self) -> Result<(), Stop> {
        self.log.files.disk.create_dir_all(&self.log.files.dir)?;
        let mut found = self.segments()?;
        self.drop_deleted(&mut found)?;
        let first = found.first().map_or(self.opening.log_start.unwrap_or_default(), |(base, _)| *base);
        let mut trusted = self.opening.recovery_point.unwrap_or(first);
        if let Some(lowered) = self.marker()? {
            trusted = trusted.min(lowered);
        }
        let trusted = trusted.max(first);
        self.log.start = self.opening.log_start.unwrap_or(first).max(first);
        self.log.end = first;
        if found.is_empty() {
            self.log.segments.push(Segment::empty(first, self.log.clock.wall_ms()));
        }
        // A segment that ends just at the recovery point is looked at as well: the recovery point may be where the log
        // was cut, and behind the entries of its indexes may lie what the cut removed.
        let resume = found.partition_point(|(base, _)| *base < trusted).saturating_sub(1);
        let now = self.log.clock.wall_ms();
        let sealed = found.iter().take(resume);
        self.log.segments.extend(sealed.map(|(base, size)| Segment::existing(*base, *size, now)));
        let whole = self.read_epochs(&found, resume, trusted)? && self.check_all(&found, resume, trusted)?;
        self.settle(resume, trusted, whole)?;
        Ok(())
    }

    /// The segments' bases and sizes, in order. Removes what an interrupted change has left.
    fn segments(&self) -> Result<Vec<(Offset, u32)>, Stop> {
        let files = &self.log.files;
        let names = files.disk.list(&files.dir)?;
        let mut bases: Vec<Offset> = Vec::new();
        for name in &names {
            match parse_file_name(name) {
                Some((base, Kind::Log)) => bases.push(base),
                None if name.ends_with(".tmp") || name.ends_with(".deleted") => {
                    files.disk.remove_file(&files.dir.join(name))?;
                }
                _ => {}
            }
        }
        for (base, kind) in names.iter().filter_map(|name| parse_file_name(name)) {
            if matches!(kind, Kind::Index | Kind::TimeIndex) && !bases.contains(&base) {
                files.remove(base, kind)?;
            }
        }
        let mut found = Vec::new();
        for base in bases {
            let bytes = files.open(base, Kind::Log)?.len()?;
            let size = u32::try_from(bytes).ok().filter(|size| *size <= SEGMENT_BYTES_MAX);
            let too_large = || OpenError::TooLarge { file: files.path(base, Kind::Log), bytes };
            found.push((base, size.ok_or_else(too_large).map_err(Stop::Error)?));
        }
        Ok(found)
    }

    /// Removes the segments before the start of the log: their removal was not durable, and neither may their bytes be.
    fn drop_deleted(&self, found: &mut Vec<(Offset, u32)>) -> io::Result<()> {
        let start = self.opening.log_start.unwrap_or_default();
        let deleted = found.iter().skip(1).take_while(|(base, _)| *base <= start).count();
        for (base, _) in found.drain(..deleted) {
            remove_segment(&self.log.files, base)?;
        }
        Ok(())
    }

    fn marker(&mut self) -> io::Result<Option<Offset>> {
        let files = &self.log.files;
        let content = match read_file(&*files.disk, &files.dir.join(MARKER), MARKER_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        self.log.marked = true;
        // A marker that cannot be read lowers the recovery point all the way: more is read, nothing is lost.
        Ok(Some(parse_marker(&content).unwrap_or_default()))
    }

    /// The epochs below the recovery point: from their file, else from the batches. False if those are damaged.
    fn read_epochs(&mut self, found: &[(Offset, u32)], resume: usize, trusted: Offset) -> Result<bool, Stop> {
        let files = &self.log.files;
        let text = match read_file(&*files.disk, &files.dir.join(EPOCH_FILE), EPOCH_BYTES_MAX) {
            Ok(content) => String::from_utf8(content).ok(),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => {
                None
            }
            Err(error) => return Err(error.into()),
        };
        let first = found.first().map_or(trusted, |(base, _)| *base);
        if let Some(cache) = text.and_then(|text| EpochCache::decode(&text).ok()) {
            self.log.epochs = cache;
            self.log.epochs.truncate_to(trusted);
            // The first batch is in some epoch: a file without it is older than it should be.
            if trusted == first
                || self.log.epochs.entries().first().is_some_and(|entry| entry.start <= self.log.start)
            {
                return Ok(true);
            }
        }
        self.log.epochs = EpochCache::default();
        if trusted == first {
            return Ok(true);
        }
        self.report.epochs_rebuilt = true;
        for (at, (base, size)) in found.iter().enumerate().take(resume + 1) {
            if let Err(broken) = self.add_epochs(*base, *size, trusted) {
                self.damage(at, *base, *size, broken)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add_epochs(&mut self, base: Offset, size: u32, trusted: Offset) -> Result<(), WalkError> {
        let file = self.log.files.open(base, Kind::Log)?;
        let mut walk = Walk::new(&*file, 0, size, SCAN_BYTES);
        let mut end = base;
        while end < trusted
            && let Some((_, header)) = walk.next()?
        {
            end = header.next_offset();
            self.log.epochs.assign(header.leader_epoch, header.base_offset);
        }
        Ok(())
    }

    /// Checks the segments from the one that holds the recovery point on. False if one is damaged.
    fn check_all(&mut self, found: &[(Offset, u32)], resume: usize, trusted: Offset) -> Result<bool, Stop> {
        for (at, (base, size)) in found.iter().enumerate().skip(resume) {
            if at > resume && !self.follows(found, at) {
                let reason =
                    format!("it begins at offset {base}, and the one before it ends at {}", self.log.end);
                if self.opening.page_cache == PageCache::Lost {
                    self.cut(found, at, 0, reason, false)?;
                    return Ok(true);
                }
                self.report_damage(*base, 0, reason);
                return Ok(false);
            }
            self.log.end = self.log.end.max(*base);
            let checked = self.check_segment(*base, *size, trusted);
            let (position, reason) = match checked {
                Ok(()) => continue,
                Err(WalkError::Io(error)) => return Err(error.into()),
                Err(WalkError::Broken { position, reason }) => (position, reason.to_string()),
            };
            match self.finish_rebuild(*base, trusted) {
                Err(WalkError::Io(error)) => return Err(error.into()),
                Ok(()) | Err(WalkError::Broken { .. }) => {}
            }
            let behind = self.has_batches_behind(found, at, position)?;
            let torn = self.log.end >= trusted && !(behind && self.opening.page_cache == PageCache::Kept);
            if torn {
                self.cut(found, at, position, reason, behind)?;
                return Ok(true);
            }
            self.report_damage(*base, position, reason);
            return Ok(false);
        }
        if self.log.end >= trusted {
            return Ok(true);
        }
        let (base, size) = found.last().copied().unwrap_or((self.log.end, 0));
        let reason = format!("the log ends here and was durable up to offset {trusted}");
        self.report_damage(base, size, reason);
        Ok(false)
    }

    /// Whether a segment begins where the one before it ends. A hole between them is a lost tail, since a log rolls at
    /// its end; but a gap that compaction left may be too large for one segment.
    fn follows(&self, found: &[(Offset, u32)], at: usize) -> bool {
        let base = found.get(at).map_or(self.log.end, |(base, _)| *base);
        let before = at.checked_sub(1).and_then(|before| found.get(before)).map_or(base, |(base, _)| *base);
        let far = base.0.saturating_sub(before.0) > i64::from(i32::MAX);
        base == self.log.end || (base > self.log.end && (far || self.opening.page_cache == PageCache::Kept))
    }

    /// Takes in one segment, its last in [`Log::segments`] from now on.
    fn check_segment(&mut self, base: Offset, size: u32, trusted: Offset) -> Result<(), WalkError> {
        let mut segment = Segment::existing(base, size, self.log.clock.wall_ms());
        let from = self.resume_position(&mut segment, trusted)?;
        self.log.segments.push(segment);
        let file = self.log.files.open(base, Kind::Log)?;
        let mut walk = Walk::new(&*file, from, size, SCAN_BYTES);
        while let Some((position, header)) = walk.next()? {
            if header.base_offset >= trusted {
                walk.check(position, &header)?;
                self.report.checked_bytes += header.size_bytes as u64;
            }
            self.take_in(position, &header, trusted)?;
        }
        self.finish_rebuild(base, trusted)
    }

    /// Makes indexes durable that were built anew although the recovery point vouched for them.
    fn finish_rebuild(&mut self, base: Offset, trusted: Offset) -> Result<(), WalkError> {
        match self.log.segments.last_mut() {
            Some(segment) if trusted > base && self.report.indexes_rebuilt => {
                segment.finish_rebuild(&self.log.files)
            }
            _ => Ok(()),
        }
    }

    /// Where to begin in a segment, which then ends there: behind the last indexed batch before the recovery point, else
    /// at the first.
    fn resume_position(&mut self, segment: &mut Segment, trusted: Offset) -> Result<u32, WalkError> {
        let (files, config) = (&self.log.files, &self.log.config);
        let base = segment.base();
        if trusted > base {
            match resume_at(files, config, segment, trusted) {
                Ok(Some((position, end))) => {
                    self.log.end = end;
                    return Ok(position);
                }
                Err(WalkError::Io(error)) => return Err(error.into()),
                // The indexes do not lead through the batches: build them anew.
                Ok(None) | Err(WalkError::Broken { .. }) => self.report.indexes_rebuilt = true,
            }
        }
        if trusted > base {
            segment.begin_rebuild(files)?;
        } else {
            segment.restart_indexes(files)?;
        }
        self.log.end = self.log.end.max(base);
        Ok(0)
    }

    fn take_in(&mut self, position: u32, header: &BatchHeader, trusted: Offset) -> Result<(), WalkError> {
        let Log { segments, files, config, epochs, end, .. } = &mut self.log;
        let Some(segment) = segments.last_mut() else { return Ok(()) };
        let newest = epochs.latest().map(|entry| entry.epoch);
        let fell = header.base_offset >= trusted && newest.is_some_and(|newest| header.leader_epoch < newest);
        if header.base_offset < *end || segment.relative(header.last_offset()).is_none() || fell {
            let reason = crate::protocol::batch::BatchError::Offsets {
                base: header.base_offset.0,
                delta: header.last_offset_delta,
            };
            return Err(WalkError::Broken { position, reason });
        }
        segment.note_batch(files, config, header)?;
        if header.base_offset >= trusted {
            epochs.assign(header.leader_epoch, header.base_offset);
            segment.note_verified(position..segment.size());
        }
        *end = header.next_offset();
        Ok(())
    }

    /// Whether a whole batch that may belong to the log lies behind a broken one.
    fn has_batches_behind(&self, found: &[(Offset, u32)], at: usize, position: u32) -> io::Result<bool> {
        let mut from = position.saturating_add(1);
        for (base, size) in found.iter().skip(at) {
            let file = self.log.files.open(*base, Kind::Log)?;
            if find_batch(&*file, from, *size, self.log.end)?.is_some() {
                return Ok(true);
            }
            from = 0;
        }
        Ok(false)
    }

    /// Cuts a torn tail and removes the segments behind it.
    fn cut(
        &mut self,
        found: &[(Offset, u32)],
        at: usize,
        position: u32,
        reason: String,
        batches_behind: bool,
    ) -> Result<(), Stop> {
        let Some((base, size)) = found.get(at) else { return Ok(()) };
        let files = &self.log.files;
        let behind: u64 = found.iter().skip(at + 1).map(|(_, size)| u64::from(*size)).sum();
        let bytes = u64::from(size - position) + behind;
        for (base, _) in found.iter().skip(at + 1).rev() {
            remove_segment(files, *base)?;
        }
        if position == 0 && at > 0 {
            remove_segment(files, *base)?;
            if self.log.segments.last().is_some_and(|segment| segment.base() == *base) {
                self.log.segments.pop();
            }
        } else {
            let file = files.open(*base, Kind::Log)?;
            file.set_len(u64::from(position))?;
            file.sync_now()?;
        }
        files.disk.sync_dir(&files.dir)?;
        let file = files.path(*base, Kind::Log);
        let end = self.log.end;
        tracing::warn!(
            "{}: cut {bytes} bytes at byte {position}, offset {end}, that were not durable: {reason}",
            file.display()
        );
        self.report.cut = Some(Cut { file, position, end, bytes, reason, batches_behind });
        Ok(())
    }

    fn damage(&mut self, at: usize, base: Offset, size: u32, error: WalkError) -> Result<(), Stop> {
        let (position, reason) = match error {
            WalkError::Io(error) => return Err(error.into()),
            WalkError::Broken { position, reason } => (position, reason.to_string()),
        };
        self.log.segments.truncate(at);
        let mut segment = Segment::existing(base, size, self.log.clock.wall_ms());
        segment.restart_indexes(&self.log.files)?;
        self.log.segments.push(segment);
        self.log.end = self.log.end.max(base);
        self.report_damage(base, position, reason);
        Ok(())
    }

    fn report_damage(&mut self, base: Offset, position: u32, reason: String) {
        let file = self.log.files.path(base, Kind::Log);
        let damage = Damage { file, position, offset: self.log.end, reason };
        tracing::error!("a record log is damaged and its partition is not served: {damage}");
        self.log.unusable = Some(Unusable::Damaged(damage.clone()));
        self.report.damage = Some(damage);
    }

    /// Sets start, synced end and recovery point when the end is known.
    fn settle(&mut self, resume: usize, trusted: Offset, whole: bool) -> Result<(), Stop> {
        let log = &mut self.log;
        log.synced = trusted.min(log.end);
        log.recovery_point = log.synced;
        if log.segments.is_empty() {
            log.segments.push(Segment::empty(log.end, log.clock.wall_ms()));
        }
        log.bytes_since_deep_sync = self.report.checked_bytes;
        if self.opening.rewrite && log.unusable.is_none() {
            log.rewrite_from(resume)?;
        }
        if log.end > trusted || self.report.indexes_rebuilt || self.report.cut.is_some() {
            log.mark_unsynced_from(resume);
        }
        if whole && log.start > log.end {
            // The start was moved and kept, and the records up to it were not durable.
            let start = log.start;
            log.start = log.end;
            log.truncate_fully_and_start_at(start).map_err(|error| Stop::Io(io::Error::other(error)))?;
        }
        log.start = log.start.min(log.end);
        log.synced = log.synced.max(log.start);
        log.epochs.delete_before(log.start);
        log.validate();
        Ok(())
    }
}

fn remove_segment(files: &Files, base: Offset) -> io::Result<()> {
    for kind in [Kind::Log, Kind::Index, Kind::TimeIndex, Kind::Snapshot] {
        files.remove(base, kind)?;
    }
    Ok(())
}
