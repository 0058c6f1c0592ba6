//! Admission control: the permits and the buffers that requests wait for, all owned by one type.
//!
//! Bodies are counted as they arrive, answers until they are sent. If the buffer has no space for another one, a late
//! holder is evicted, or one of the client that holds the most. A request waits for its permits behind at most one
//! request of each other client. The sum of all limits is checked against `limits.max_memory` at start.

mod budget;
mod buffer;
mod fair;

use std::sync::Arc;

use bytes::Bytes;
use service::connection::Peer;
use service::metrics::IntGauge;
use tokio::sync::SemaphorePermit;

use crate::access::Client;
use crate::config::{Limits, QuerySettings};

pub(crate) use self::budget::check;
pub(crate) use self::buffer::Reservation;

use self::buffer::{Buffer, Holder};
use self::fair::FairSemaphore;

/// Requests for up to this many publications are lookups. They have their own lane, so that lookups, pages and small
/// lockfiles never wait behind bulk requests.
const MAX_LOOKUP: u32 = 1_000;
/// The permits of the lookups' lane, in publications.
const LOOKUP_PERMITS: u32 = 2_000;
/// A document of up to this many bytes is short: short ones are validated one at a time, and so are long ones, so that most clients
/// never wait behind those that cost much. Only requests with new documents wait here.
const SHORT_DOCUMENT: usize = 2 * 1_024;
/// Answers with at least this many values are written one at a time: their length is not known before, and a value may have
/// a kilobyte.
const LARGE_ANSWER: u64 = 2_000;

/// The resources that all requests share.
#[derive(Debug)]
pub(crate) struct Admission {
    bodies: Arc<Buffer>,
    answers: Arc<Buffer>,
    waiting: Arc<Buffer>,
    short_validations: FairSemaphore,
    long_validations: FairSemaphore,
    lookups: Lane,
    bulk: Lane,
    writing: FairSemaphore,
    scans: FairSemaphore,
    histories: FairSemaphore,
    sending: IntGauge,
}

/// Permits to work on publications. Requests that scan (pages, searches, histories) may use half of them, because a scan can
/// take seconds, and the others must not wait for it.
#[derive(Debug)]
struct Lane {
    all: FairSemaphore,
    scans: FairSemaphore,
    permits: u32,
}

/// Permits to work on a number of publications. Dropping them releases them.
#[derive(Debug, Default)]
pub(crate) struct Work<'a> {
    permit: Option<SemaphorePermit<'a>>,
    /// Held in addition by a request that scans.
    scan: Option<SemaphorePermit<'a>>,
}

/// The permits that the requests of one client wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permits<'a> {
    admission: &'a Admission,
    client: Client,
}

/// An answer that releases its buffer space when its last byte has left the process.
struct Sending {
    body: Bytes,
    gauge: IntGauge,
    _reservation: Reservation,
}

impl Sending {
    fn bytes(&self) -> i64 {
        i64::try_from(self.body.len()).unwrap_or(i64::MAX)
    }
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes());
    }
}

impl Lane {
    fn new(permits: u32) -> Self {
        let scans = FairSemaphore::new(permits.div_ceil(2) as usize);
        Self { all: FairSemaphore::new(permits as usize), scans, permits }
    }

    async fn work(&self, client: Client, publications: u32, scans: bool) -> Work<'_> {
        let permits = publications.min(self.permits);
        let scan = match scans {
            true => self.scans.acquire_many(client, permits.min(self.permits.div_ceil(2))).await,
            false => None,
        };
        Work { permit: self.all.acquire_many(client, permits).await, scan }
    }
}

/// How many bytes of written answers may wait for buffer space.
const fn max_waiting(max_answer: u64) -> u64 {
    max_answer / 2
}

impl Admission {
    /// `sending` is the gauge of the bytes of answers that are being sent.
    pub(crate) fn new(settings: &QuerySettings, sending: IntGauge) -> Self {
        let Limits { max_bodies, max_body, max_answers, max_answer, max_refs_in_progress, .. } =
            settings.limits;
        Self {
            bodies: Buffer::new(max_bodies.as_u64(), max_body.as_u64()),
            answers: Buffer::new(max_answers.as_u64(), max_answer.as_u64()),
            waiting: Buffer::new(max_waiting(max_answer.as_u64()), 0),
            short_validations: FairSemaphore::new(1),
            long_validations: FairSemaphore::new(1),
            lookups: Lane::new(LOOKUP_PERMITS),
            bulk: Lane::new(max_refs_in_progress),
            writing: FairSemaphore::new(1),
            scans: FairSemaphore::new((settings.store.max_connections as usize / 2).max(1)),
            histories: FairSemaphore::new(1),
            sending,
        }
    }

    /// Registers a body of at most `most` bytes that is about to arrive. Its reservation has 0 bytes, and grows with
    /// each chunk.
    pub(crate) fn body(&self, client: Client, most: u64) -> Reservation {
        self.bodies.register(Holder::Body(most), client)
    }

    /// Waits until the answer fits beside the answers that are being sent. `None` if too many bytes wait already.
    pub(crate) async fn answer(
        &self,
        body: Bytes,
        client: Client,
        peer: Option<Peer>,
    ) -> Option<Bytes> {
        let bytes = body.len() as u64;
        let mut reservation =
            self.answers.register(peer.map_or(Holder::Pinned, Holder::Answer), client);
        if !reservation.try_grow(bytes) {
            let mut waiting = self.waiting.register(Holder::Pinned, client);
            if !waiting.try_grow(bytes) {
                return None;
            }
            // On eviction the connection is closed, so the result is not needed.
            let _ = reservation.grow(bytes).await;
        }
        let sending = Sending { body, gauge: self.sending.clone(), _reservation: reservation };
        self.sending.add(sending.bytes());
        Some(Bytes::from_owner(sending))
    }

    /// The permits that this client may wait for.
    pub(crate) const fn of(&self, client: Client) -> Permits<'_> {
        Permits { admission: self, client }
    }

    /// Reduces estimated permits to the exact number; the surplus is released. `None`, with all released, if they are too few:
    /// two requests that each hold a part and wait for more would deadlock.
    pub(crate) fn exactly<'a>(&self, mut work: Work<'a>, publications: u64) -> Option<Work<'a>> {
        let wanted = usize::try_from(publications).unwrap_or(usize::MAX);
        let held = work.permit.as_ref().map_or(0, SemaphorePermit::num_permits);
        if held < wanted.min(self.bulk.permits as usize) {
            return None;
        }
        for permit in [&mut work.permit, &mut work.scan].into_iter().flatten() {
            drop(permit.split(permit.num_permits().saturating_sub(wanted)));
        }
        Some(work)
    }
}

impl<'a> Permits<'a> {
    /// Waits for the permit to validate a document of so many bytes.
    pub(crate) async fn validation(self, bytes: usize) -> Option<SemaphorePermit<'a>> {
        let Admission { short_validations, long_validations, .. } = self.admission;
        let is_short = bytes <= SHORT_DOCUMENT;
        let validations = if is_short { short_validations } else { long_validations };
        validations.acquire(self.client).await
    }

    /// Waits for the permit to write an answer of so many values. A small answer needs none.
    pub(crate) async fn writing(self, values: u64) -> Option<SemaphorePermit<'a>> {
        if values < LARGE_ANSWER { None } else { self.admission.writing.acquire(self.client).await }
    }

    /// Waits for the permit to run a statement that may read many rows. Such statements share half of the connections, so that
    /// look-ups always find one.
    pub(crate) async fn scan(self) -> Option<SemaphorePermit<'a>> {
        self.admission.scans.acquire(self.client).await
    }

    /// Waits for the permit to read histories. Only one request does at a time, because the rows of a package are in memory together.
    pub(crate) async fn history(self) -> Option<SemaphorePermit<'a>> {
        self.admission.histories.acquire(self.client).await
    }

    /// Waits for the permits to work on so many publications. `scans`: whether the request reads pages, searches or histories.
    pub(crate) async fn work(self, publications: u64, scans: bool) -> Work<'a> {
        let permits = u32::try_from(publications).unwrap_or(u32::MAX);
        // A listing of many pages leaves permits for a page and for a small audit.
        let most = if scans { MAX_LOOKUP / 4 } else { MAX_LOOKUP };
        let lane = if permits <= most { &self.admission.lookups } else { &self.admission.bulk };
        lane.work(self.client, permits, scans).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn answers_that_wait_for_room_are_few() {
        let mut settings = QuerySettings::default();
        settings.limits.max_answer = bytesize::ByteSize::b(100);
        settings.limits.max_answers = bytesize::ByteSize::b(100);
        let admission = Admission::new(&settings, IntGauge::new("bytes", "Bytes").unwrap());
        let body = |bytes: usize| Bytes::from(vec![b' '; bytes]);
        let sent = admission.answer(body(100), client(1), None).await.unwrap();
        let mut waiting = std::pin::pin!(admission.answer(body(25), client(1), None));
        assert!(timeout(Duration::from_millis(60), &mut waiting).await.is_err());
        assert!(
            admission.answer(body(1), client(1), None).await.is_none(),
            "half of 50 bytes wait"
        );
        assert!(admission.answer(body(26), client(2), None).await.is_none(), "and 26 are too many");
        drop(sent);
        assert_eq!(waiting.await.unwrap().len(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_its_turn_and_never_for_itself() {
        let mut settings = QuerySettings::default();
        settings.limits.max_refs_in_progress = 10_000;
        let admission = Admission::new(&settings, IntGauge::new("bytes", "Bytes").unwrap());
        let second = Duration::from_secs(1);
        let work = |publications| admission.of(client(1)).work(publications, false);
        let first = work(6_000).await;
        assert!(timeout(second, work(6_000)).await.is_err());
        let other = work(4_000).await;
        assert!(admission.exactly(first, 6_001).is_none(), "too few are released");
        let other = admission.exactly(other, 4_000).unwrap();
        assert!(timeout(second, work(6_000)).await.is_ok());
        assert!(admission.exactly(other, 100_000).is_none());
        let all = timeout(second, work(100_000)).await.unwrap();
        let all = admission.exactly(all, 100_000).unwrap();
        assert!(timeout(second, work(1_001)).await.is_err());
        assert!(timeout(second, work(MAX_LOOKUP.into())).await.is_ok(), "another lane");
        // The surplus of an estimate is available to others at once.
        let _less = admission.exactly(all, 1_200).unwrap();
        assert!(timeout(second, work(8_800)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn scans_leave_half_of_each_lane_to_others() {
        let settings = QuerySettings::default();
        let admission = Admission::new(&settings, IntGauge::new("bytes", "Bytes").unwrap());
        let second = Duration::from_secs(1);
        let scan = admission.of(client(1)).work(5_000, true).await;
        assert!(timeout(second, admission.of(client(1)).work(1_000, true)).await.is_err());
        assert!(timeout(second, admission.of(client(1)).work(5_000, false)).await.is_ok());
        let mut small = Vec::new();
        for _ in 0..4 {
            small.push(timeout(second, admission.of(client(1)).work(250, true)).await.unwrap());
        }
        assert!(timeout(second, admission.of(client(1)).work(50, true)).await.is_err());
        assert!(timeout(second, admission.of(client(1)).work(1_000, false)).await.is_ok());
        // The surplus of a scan is available to others that scan.
        let _less = admission.exactly(scan, 4_000).unwrap();
        assert!(timeout(second, admission.of(client(1)).work(1_000, true)).await.is_ok());
    }
}
