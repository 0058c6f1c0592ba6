//! Tests of the loop with scripted ports, under virtual time.

use std::ops::ControlFlow;
use std::path::Path;

use async_trait::async_trait;
use enrich::{ExitHistory, TfaRules, TorRules, format};
use model::{Position, Publication, Timestamp, TorReason};
use parking_lot::Mutex;
use store::{Error, PublicationWriter, Recorded, Retrying, WaitCause, WaitObserver};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::*;
use crate::decode::DecodeRules;
use crate::decode::rejection::Rejection;
use crate::pipeline::evaluate::Outcome;
use crate::pipeline::ports::{AssignmentId, DeadLetters, DeliveryObserver, RowStore, Undelivered};
use crate::pipeline::write::Delivery;
use crate::record::Record;

const AT: &str = "2022-03-01T12:00:00Z";

const LIMITS: BatchLimits = BatchLimits {
    max_rows: 2,
    max_bytes: 1 << 20,
    linger: Duration::from_millis(20),
    in_flight: 3,
    max_buffered_bytes: 1 << 20,
};

/// A log of the calls, in order.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn push(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    fn list(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    /// The rest of each line that begins with this word.
    fn of(&self, word: &str) -> Vec<String> {
        let rest = |line: &String| line.strip_prefix(word).map(|rest| rest.trim().to_owned());
        self.list().iter().filter_map(rest).collect()
    }
}

/// Logs each batch by its offsets; ends at record number `last`.
struct Observer {
    calls: Calls,
    last: Option<u64>,
    evaluated: u64,
}

impl BatchObserver for Observer {
    fn evaluated(&mut self, _: &Outcome) -> ControlFlow<()> {
        self.evaluated += 1;
        if Some(self.evaluated) == self.last {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn sent(&mut self, batch: &Batch) {
        self.calls.push(format!("sent {}", next(batch)));
    }

    fn written(&mut self, written: &WrittenBatch) {
        self.calls.push(format!("written {}", next(&written.batch)));
    }
}

fn next(batch: &Batch) -> String {
    let next = batch.offsets.iter().map(|(partition, offset)| {
        format!("{partition}@{} of {}", offset.next, offset.assignment.0)
    });
    next.collect::<Vec<_>>().join(" ")
}

impl DeliveryObserver for Calls {
    fn waiting(&self, _: &Undelivered) {
        self.push("waiting");
    }

    fn recovered(&self) {
        self.push("recovered");
    }
}

impl WaitObserver for Calls {
    fn waiting(&self, cause: WaitCause, _: &Error) {
        self.push(format!("waiting {cause:?}"));
    }

    fn recovered(&self, cause: WaitCause) {
        self.push(format!("recovered {cause:?}"));
    }
}

/// A table with a script: the duration of each write, in the order in which they begin, and its result.
#[derive(Default)]
struct Table {
    calls: Calls,
    script: Mutex<VecDeque<(u64, Result<(), Error>)>>,
    /// A row with this name is refused for its data.
    refused: Option<&'static str>,
    under_way: Mutex<(usize, usize)>,
    is_serial: bool,
}

impl Table {
    /// Each write takes this many milliseconds.
    fn taking(calls: &Calls, takes: &[u64]) -> Self {
        let script = takes.iter().map(|&takes| (takes, Ok(()))).collect();
        Self { calls: calls.clone(), script: Mutex::new(script), ..Self::default() }
    }

    async fn write_once(&self, rows: &[Publication]) -> Result<Recorded, Error> {
        let (takes, result) = self.script.lock().pop_front().unwrap_or((1, Ok(())));
        {
            let mut under_way = self.under_way.lock();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        sleep(Duration::from_millis(takes)).await;
        self.under_way.lock().0 -= 1;
        result?;
        let names: Vec<_> = rows.iter().map(|row| row.id.name.as_str()).collect();
        if names.iter().any(|name| Some(*name) == self.refused) {
            return Err(Error::Data("violates a constraint".into()));
        }
        self.calls.push(format!("rows {}", names.join(" ")));
        Ok(Recorded { inserted: rows.len() as u64, ..Recorded::default() })
    }
}

#[async_trait]
impl RowStore for Table {
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, Error> {
        let recorded = self.write_once(rows).await?;
        Ok(store::Written { recorded, ..store::Written::default() })
    }

    fn is_serial(&self) -> bool {
        self.is_serial
    }
}

#[async_trait]
impl PublicationWriter for Table {
    async fn record(&self, rows: &[Publication]) -> Result<Recorded, Error> {
        self.write_once(rows).await
    }

    fn is_serial(&self) -> bool {
        self.is_serial
    }
}

/// A dead-letter topic that does not acknowledge the first few letters, and takes its time for each.
struct Topic {
    calls: Calls,
    unacknowledged: Mutex<u32>,
    takes: Duration,
}

#[async_trait]
impl DeadLetters for Topic {
    async fn deliver(&self, rejection: &Rejection, record: &Record) -> Result<(), Undelivered> {
        sleep(self.takes).await;
        let mut unacknowledged = self.unacknowledged.lock();
        if *unacknowledged > 0 {
            *unacknowledged -= 1;
            let (position, reason) = (record.position.clone(), "no answer".to_owned());
            return Err(Undelivered { position, reason });
        }
        self.calls.push(format!("dead {} {}", record.position.offset, rejection.code.as_str()));
        Ok(())
    }
}

pub(crate) fn record(offset: i64) -> Record {
    // Every second publisher uses the exit's address.
    let ip = if offset % 2 == 0 { "109.70.100.19" } else { "71.160.223.45" };
    let value = format!(
        r#"{{"specversion":"1.0","id":"{offset}","source":"s","type":"t","data":{{"package":{{"ecosystem":"npm",
        "name":"p{offset}","version":"1"}},"publishedAt":"{AT}","request":{{"ip":"{ip}"}}}}}}"#
    );
    let position = Position { topic: "t".into(), partition: 0, offset };
    Record { position, timestamp: None, key: None, value: Some(value.into()), headers: Vec::new() }
}

fn bad(offset: i64) -> Record {
    Record { value: Some("not an event".into()), ..record(offset) }
}

fn skipped(offset: i64) -> Record {
    Record { value: None, ..record(offset) }
}

fn chunk(assignment: u64, records: impl IntoIterator<Item = Record>) -> SourceEvent {
    let records = records.into_iter().collect();
    SourceEvent::Records(Chunk { records, assignment: AssignmentId(assignment) })
}

fn evaluator(history: Arc<ExitHistory>) -> Evaluator {
    let decode =
        DecodeRules { ecosystem: "npm".into(), event_type: "t".into(), max_event_bytes: 1 << 20 };
    Evaluator { decode, history, tfa: TfaRules::default(), generation: 0 }
}

/// A record that becomes a row.
pub(crate) fn row(offset: i64) -> Outcome {
    evaluator(Arc::new(ExitHistory::new(TorRules::default()))).evaluate(&record(offset))
}

/// Writes rows, and dead letters to a topic that does not acknowledge the first few.
fn writer(
    calls: &Calls,
    rows: Arc<dyn RowStore>,
    unacknowledged: u32,
    takes: Duration,
) -> Arc<Writer> {
    let unacknowledged = Mutex::new(unacknowledged);
    let topic = Topic { calls: calls.clone(), unacknowledged, takes };
    let dead_letters = Some(Delivery { topic: Box::new(topic), observer: Arc::new(calls.clone()) });
    Arc::new(Writer { rows, dead_letters })
}

/// The loop on a table, with a dead-letter topic that acknowledges.
fn ingest(calls: &Calls, rows: Arc<dyn RowStore>) -> Ingest {
    let history = Arc::new(ExitHistory::new(TorRules::default()));
    Ingest {
        evaluator: evaluator(history.clone()),
        evidence: Box::new(history),
        writer: writer(calls, rows, 0, Duration::ZERO),
        observer: Box::new(Observer { calls: calls.clone(), last: None, evaluated: 0 }),
        limits: LIMITS,
    }
}

/// Runs the loop with these events.
async fn run(
    ingest: Ingest,
    events: impl IntoIterator<Item = SourceEvent>,
) -> Result<(), IngestError> {
    let (source, receiver) = mpsc::channel(64);
    for event in events {
        source.send(event).await.unwrap();
    }
    drop(source);
    ingest.run(receiver).await
}

#[tokio::test(start_paused = true)]
async fn batches_are_written_at_once_and_told_in_order() {
    let calls = Calls::default();
    let table = Arc::new(Table::taking(&calls, &[30, 10, 20, 1]));
    let events = [chunk(1, (0..8).map(record)), SourceEvent::Ended];
    run(ingest(&calls, table.clone()), events).await.unwrap();
    assert_eq!(calls.of("rows"), ["p2 p3", "p4 p5", "p0 p1", "p6 p7"]);
    assert_eq!(calls.of("written"), ["0@2 of 1", "0@4 of 1", "0@6 of 1", "0@8 of 1"]);
    let list = calls.list();
    let place = |line: &str| list.iter().position(|call| call == line).unwrap();
    assert!(place("rows p0 p1") < place("written 0@2 of 1"), "{list:?}");
    assert_eq!(table.under_way.lock().1, LIMITS.in_flight);
}

#[tokio::test(start_paused = true)]
async fn reading_stops_while_the_writers_are_busy_and_the_batch_is_full() {
    let calls = Calls::default();
    let ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[1_000; 9])));
    let (source, receiver) = mpsc::channel(1);
    let running = tokio::spawn(ingest.run(receiver));
    for offset in 0..9 {
        let event = chunk(1, [record(offset)]);
        // Three batches are being written, a fourth is full, one event waits.
        let taken = tokio::time::timeout(Duration::from_millis(100), source.send(event)).await;
        assert!(taken.is_ok(), "{offset}");
    }
    let event = chunk(1, [record(9)]);
    assert!(tokio::time::timeout(Duration::from_millis(10), source.send(event)).await.is_err());
    source.send(SourceEvent::Ended).await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(calls.of("written").last().map(String::as_str), Some("0@9 of 1"));
}

#[tokio::test(start_paused = true)]
async fn reading_stops_at_the_bytes_that_may_be_held() {
    let calls = Calls::default();
    let held = 3 * (record(0).size() + size_of::<Publication>());
    let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[1_000])));
    ingest.limits = BatchLimits { max_buffered_bytes: held, max_rows: 100, ..LIMITS };
    let (source, receiver) = mpsc::channel(1);
    let running = tokio::spawn(ingest.run(receiver));
    let began = Instant::now();
    for offset in 0..5 {
        source.send(chunk(1, [record(offset)])).await.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    source.send(SourceEvent::Ended).await.unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_waits_for_others_no_longer_than_the_linger() {
    let calls = Calls::default();
    let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[1])));
    ingest.limits.max_rows = 100;
    let (source, receiver) = mpsc::channel(4);
    let running = tokio::spawn(ingest.run(receiver));
    source.send(chunk(1, [record(0)])).await.unwrap();
    sleep(LIMITS.linger - Duration::from_millis(2)).await;
    assert_eq!(calls.of("sent"), [""; 0]);
    sleep(Duration::from_millis(4)).await;
    assert_eq!(calls.of("sent"), ["0@1 of 1"]);
    source.send(SourceEvent::Ended).await.unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_and_a_refused_row_is_found() {
    let calls = Calls::default();
    let transient = || Err(Error::Transient("connection reset".into()));
    let table = Table {
        script: Mutex::new([(1, transient()), (1, transient())].into()),
        refused: Some("p2"),
        ..Table::taking(&calls, &[])
    };
    let mut ingest =
        ingest(&calls, Arc::new(Retrying::<Table>::new(Arc::new(table), Arc::new(calls.clone()))));
    ingest.limits.max_rows = 4;
    run(ingest, [chunk(1, (0..4).map(record)), SourceEvent::Ended]).await.unwrap();
    assert_eq!(
        calls.list(),
        [
            "sent 0@4 of 1",
            "waiting Away",
            "rows p0 p1",
            "recovered Away",
            "rows p3",
            "dead 2 refused_by_store",
            "written 0@4 of 1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_acknowledged_in_order_before_their_batch_is_done() {
    let calls = Calls::default();
    let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[1])));
    ingest.writer = writer(&calls, ingest.writer.rows.clone(), 3, Duration::ZERO);
    ingest.limits.max_rows = 100;
    let records = [bad(0), record(1), skipped(2), bad(3), bad(4)];
    run(ingest, [chunk(1, records), SourceEvent::Ended]).await.unwrap();
    let list = calls.list();
    assert_eq!(calls.of("dead"), ["0 not_json", "3 not_json", "4 not_json"]);
    assert_eq!((calls.of("waiting").len(), calls.of("recovered").len()), (3, 3));
    assert_eq!(list.last().map(String::as_str), Some("written 0@5 of 1"));
    assert_eq!(list[1], "rows p1", "dead letters come after the rows");
}

/// A broker that waits for a follower has the letter already: sent anew, it would be there twice.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_takes_long_is_told_and_not_sent_again() {
    for (seconds, waiting) in [(9, 0), (40, 1)] {
        let calls = Calls::default();
        let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[])));
        let rows = ingest.writer.rows.clone();
        ingest.writer = writer(&calls, rows, 0, Duration::from_secs(seconds));
        run(ingest, [chunk(1, [bad(0)]), SourceEvent::Ended]).await.unwrap();
        assert_eq!(calls.of("dead"), ["0 not_json"]);
        assert_eq!(calls.of("waiting").len(), waiting, "{seconds}");
        assert_eq!(calls.of("recovered").len(), waiting, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_last_record_that_the_observer_takes_nothing_is_written() {
    let calls = Calls::default();
    let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[])));
    ingest.observer = Box::new(Observer { calls: calls.clone(), last: Some(3), evaluated: 0 });
    let events = [chunk(1, (0..5).map(record)), chunk(1, (5..7).map(record)), SourceEvent::Ended];
    run(ingest, events).await.unwrap();
    assert_eq!(calls.of("written"), ["0@2 of 1", "0@3 of 1"]);
    assert_eq!(calls.of("rows"), ["p0 p1", "p2"]);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_answered_when_everything_before_it_is_told() {
    let calls = Calls::default();
    let ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[500, 20, 10])));
    let (source, receiver) = mpsc::channel(8);
    let running = tokio::spawn(ingest.run(receiver));
    source.send(chunk(1, (0..5).map(record))).await.unwrap();
    let (done, answer) = oneshot::channel();
    source.send(SourceEvent::Revoking { done }).await.unwrap();
    source.send(chunk(2, [record(9)])).await.unwrap();
    answer.await.unwrap();
    assert_eq!(calls.of("written"), ["0@2 of 1", "0@4 of 1", "0@5 of 1"]);
    source.send(SourceEvent::Ended).await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(calls.of("written").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_offset_carries_the_newest_assignment_of_its_partition() {
    let calls = Calls::default();
    let mut ingest = ingest(&calls, Arc::new(Table::taking(&calls, &[])));
    ingest.limits.max_rows = 100;
    let of_other = |offset| {
        let mut record = record(offset);
        record.position.partition = 1;
        record
    };
    // The first partition starts again on another log; the second continues.
    let events = [
        chunk(1, [record(7), record(8), of_other(3)]),
        chunk(2, [record(0), record(1)]),
        SourceEvent::Ended,
    ];
    run(ingest, events).await.unwrap();
    assert_eq!(calls.of("written"), ["0@2 of 2 1@4 of 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_written_to_its_end_first() {
    let calls = Calls::default();
    let table = Arc::new(Table::taking(&calls, &[50]));
    let failed = SourceEvent::Failed(SourceError::Gap("lost".into()));
    let ended = run(ingest(&calls, table.clone()), [chunk(1, [record(0)]), failed]).await;
    assert!(matches!(ended, Err(IngestError::Source(SourceError::Gap(_)))), "{ended:?}");
    assert_eq!(calls.of("written"), ["0@1 of 1"]);
    // As after a panic of the reading thread.
    let ended = run(ingest(&calls, table), [chunk(1, [record(1)])]).await;
    assert!(matches!(ended, Err(IngestError::Source(SourceError::Lost))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_table_refuses_for_good_ends_the_loop_and_nothing_behind_it_is_told() {
    let calls = Calls::default();
    let table = Table::taking(&calls, &[]);
    let fatal = Err(Error::Fatal("permission denied".into()));
    *table.script.lock() = [(5, Ok(())), (10, fatal), (1, Ok(()))].into();
    let events = [chunk(1, (0..6).map(record)), SourceEvent::Ended];
    let ended = run(ingest(&calls, Arc::new(table)), events).await;
    assert!(matches!(ended, Err(IngestError::Store(Error::Fatal(_)))), "{ended:?}");
    assert_eq!(calls.of("written"), ["0@2 of 1"]);
}

#[test]
fn a_table_that_writes_one_by_one_gets_at_once_what_others_get_in_several() {
    let serial = LIMITS.one_by_one();
    assert_eq!((serial.max_rows, serial.in_flight), (LIMITS.max_rows * LIMITS.in_flight, 1));
    // One batch is written while the next fills.
    assert!(serial.max_bytes * 2 <= serial.max_buffered_bytes);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_writes_one_by_one_is_written_one_by_one() {
    let calls = Calls::default();
    let table = Arc::new(Table { is_serial: true, ..Table::taking(&calls, &[]) });
    let events = [chunk(1, (0..12).map(record)), SourceEvent::Ended];
    run(ingest(&calls, table.clone()), events).await.unwrap();
    assert_eq!(calls.of("written"), ["0@6 of 1", "0@12 of 1"]);
    assert_eq!(table.under_way.lock().1, 1);
}

/// A table that keeps all rows.
#[derive(Default)]
struct Rows(Mutex<Vec<Publication>>);

#[async_trait]
impl RowStore for Rows {
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, Error> {
        self.0.lock().extend_from_slice(rows);
        Ok(store::Written::default())
    }

    fn is_serial(&self) -> bool {
        false
    }
}

impl Evidence for watch::Receiver<Arc<ExitHistory>> {
    fn has_changed(&self) -> bool {
        self.has_changed().unwrap_or(false)
    }

    fn current(&mut self) -> Arc<ExitHistory> {
        self.borrow_and_update().clone()
    }

    fn written_with(&self, _: &Arc<ExitHistory>) {}
}

/// Adds a list of sixty addresses and the exit, dated this many minutes before the publications.
fn with_list(history: &ExitHistory, minutes: u64) -> ExitHistory {
    let at = Timestamp::parse(AT).unwrap();
    let text = format!("109.70.100.19\n{}", testkit::exit_list_of(60));
    let list =
        format::snapshot(text.as_bytes(), at.before(Duration::from_secs(minutes * 60))).unwrap();
    let mut update = history.update();
    update.snapshot(&list, Path::new(&minutes.to_string()));
    update.finish(at).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lookup_is_wrong_while_the_evidence_is_swapped_a_hundred_times() {
    let mut evidence = with_list(&ExitHistory::new(TorRules::default()), 300);
    let (shown, history) = watch::channel(Arc::new(evidence.clone()));
    let (calls, rows) = (Calls::default(), Arc::new(Rows::default()));
    let mut ingest = ingest(&calls, rows.clone());
    ingest.evaluator = evaluator(history.borrow().clone());
    ingest.evidence = Box::new(history);
    let (source, records) = mpsc::channel(1);
    let running = ingest.start(records).unwrap();
    for swap in 0..100 {
        source.send(chunk(1, (swap * 50..(swap + 1) * 50).map(record))).await.unwrap();
        evidence = with_list(&evidence, 299 - swap.cast_unsigned());
        shown.send_replace(Arc::new(evidence.clone()));
    }
    source.send(SourceEvent::Ended).await.unwrap();
    running.await.unwrap();
    let rows = rows.0.lock();
    assert_eq!(rows.len(), 5_000);
    for row in rows.iter() {
        let number: i64 = row.id.name.as_str()[1..].parse().unwrap();
        let expected = if number % 2 == 0 {
            (Some(true), TorReason::Snapshot)
        } else {
            (Some(false), TorReason::NotListed)
        };
        assert_eq!((row.info.tor, row.info.tor_reason), expected, "{number}");
    }
    let seen: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row.tor_evidence_until).collect();
    assert!(seen.len() > 30, "the swaps were seen while records flowed: {}", seen.len());
}
