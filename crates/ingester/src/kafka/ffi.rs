//! librdkafka functions that rdkafka's safe interface lacks: leader epochs, topic ids, the members of groups, and headers
//! with names that are not UTF-8. Each use of unsafe code says why it is sound.
#![expect(unsafe_code, reason = "librdkafka's C interface, where rdkafka has no safe one")]

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

/// The epoch of the leader that wrote the record; `None` where the broker does not send it.
pub(super) fn leader_epoch(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the pointer belongs to the message and lives as long as the borrow; librdkafka only reads it.
    let epoch = unsafe { c::rd_kafka_message_leader_epoch(message.ptr()) };
    (epoch >= 0).then_some(epoch)
}

/// The headers in order, a null value as `None`. A producer may send any bytes as a name: bytes that are not UTF-8 become
/// U+FFFD here, while rdkafka's own interface panics.
pub(super) fn headers<'m>(
    message: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (Cow<'m, str>, Option<&'m [u8]>)> {
    let mut headers = std::ptr::null_mut();
    // SAFETY: the pointer belongs to the message and lives as long as the borrow, and so do the headers.
    let found = unsafe { c::rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    let count = match found {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
            // SAFETY: the headers were found.
            unsafe { c::rd_kafka_header_cnt(headers) }
        }
        _ => 0,
    };
    (0..count).map_while(move |index| {
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the headers live as long as the message. The name ends with a zero byte and the value has the length
        // `size`; both are in the message's memory.
        unsafe {
            let found = c::rd_kafka_header_get_all(
                headers,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            (found == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
                let value = (!value.is_null())
                    .then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
                (CStr::from_ptr(name).to_string_lossy(), value)
            })
        }
    })
}

/// Sets the leader epoch of each partition in the list for which `epoch` knows it. The broker uses it to detect that
/// the log was truncated (KIP-320).
pub(super) fn set_leader_epochs(
    list: &mut TopicPartitionList,
    epoch: impl Fn(i32, i64) -> Option<i32>,
) {
    // SAFETY: `&mut` gives exclusive access to the list, and librdkafka guarantees `cnt` elements at `elems`.
    let elements = unsafe {
        let list = &*list.ptr();
        let count = usize::try_from(list.cnt).unwrap_or(0);
        if count == 0 { &mut [] } else { std::slice::from_raw_parts_mut(list.elems, count) }
    };
    for element in elements {
        if let Some(epoch) = epoch(element.partition, element.offset) {
            // SAFETY: a valid element of a list with exclusive access.
            unsafe { c::rd_kafka_topic_partition_set_leader_epoch(element, epoch) };
        }
    }
}

/// The leader epochs of the list's partitions, in its order; `None` where the list has no epoch.
pub(super) fn leader_epochs(list: &TopicPartitionList) -> Vec<Option<i32>> {
    // SAFETY: the list lives as long as the borrow, and librdkafka guarantees `cnt` elements at `elems`.
    unsafe {
        let list = &*list.ptr();
        let epoch = |index| {
            let epoch = c::rd_kafka_topic_partition_get_leader_epoch(list.elems.add(index));
            (epoch >= 0).then_some(epoch)
        };
        (0..usize::try_from(list.cnt).unwrap_or(0)).map(epoch).collect()
    }
}

/// A queue for the answers to requests, so that a request neither blocks nor has its answer among the client's own events.
struct Answers(*mut c::rd_kafka_queue_t);

// SAFETY: librdkafka's queues have locks, and may be used and destroyed by any thread.
unsafe impl Send for Answers {}

impl Answers {
    /// The client must outlive the result.
    fn new<C: ClientContext>(client: &Client<C>) -> Self {
        // SAFETY: the client lives; `Drop` destroys the queue before the client.
        Self(unsafe { c::rd_kafka_queue_new(client.native_ptr()) })
    }

    /// Waits up to `timeout` for an answer, and reads it. `None`: no answer yet.
    fn next<T>(
        &self,
        timeout: Duration,
        read: impl FnOnce(*mut c::rd_kafka_event_t) -> T,
    ) -> Option<T> {
        // SAFETY: `self` owns the queue; the event is destroyed here, once, after all data was copied out of it.
        unsafe {
            let event = c::rd_kafka_queue_poll(self.0, millis(timeout));
            if event.is_null() {
                return None;
            }
            let answer = read(event);
            c::rd_kafka_event_destroy(event);
            Some(answer)
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once; librdkafka drops answers that come later.
        unsafe { c::rd_kafka_queue_destroy(self.0) };
    }
}

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

fn in_time<T>(answer: Option<Result<T, String>>) -> Result<T, String> {
    answer.unwrap_or_else(|| Err("no answer in time".to_owned()))
}

/// Options of a request that is answered or fails within `timeout`.
///
/// # Safety
/// `client` must live. The caller destroys the options.
unsafe fn options(
    client: *mut c::rd_kafka_t,
    request: c::rd_kafka_admin_op_t,
    timeout: Duration,
) -> *mut c::rd_kafka_AdminOptions_t {
    let mut reason = [0; 128];
    // SAFETY: the caller guarantees the client; librdkafka writes at most the buffer's length.
    unsafe {
        let options = c::rd_kafka_AdminOptions_new(client, request);
        c::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis(timeout),
            reason.as_mut_ptr(),
            reason.len(),
        );
        options
    }
}

/// The answer to a commit, because librdkafka's synchronous commit has no time limit.
pub(super) struct CommitAnswer(Answers);

impl CommitAnswer {
    /// Sends the commit. The client must outlive the result.
    pub(super) fn ask<C: ClientContext>(
        client: &Client<C>,
        list: &TopicPartitionList,
    ) -> KafkaResult<Self> {
        let answers = Answers::new(client);
        let (no_callback, opaque) = (None, std::ptr::null_mut());
        // SAFETY: the client lives; librdkafka copies the list before it returns.
        let asked = unsafe {
            c::rd_kafka_commit_queue(
                client.native_ptr(),
                list.ptr(),
                answers.0,
                no_callback,
                opaque,
            )
        };
        committed(asked).map(|()| Self(answers))
    }

    /// Waits up to `timeout` for the answer. `None`: no answer yet.
    pub(super) fn get(&self, timeout: Duration) -> Option<KafkaResult<()>> {
        // SAFETY: the event lives while it is read.
        self.0.next(timeout, |event| committed(unsafe { c::rd_kafka_event_error(event) }))
    }
}

fn committed(error: RDKafkaRespErr) -> KafkaResult<()> {
    match error {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(KafkaError::ConsumerCommit(error.into())),
    }
}

/// Requests for a topic's id, which changes when a topic is deleted and created again with the same name (KIP-516).
pub(super) struct TopicIds {
    client: *mut c::rd_kafka_t,
    answers: Answers,
    topic: CString,
}

impl TopicIds {
    /// `client` must outlive the result. `None` for a name that no topic can have.
    pub(super) fn new<C: ClientContext>(client: &Client<C>, topic: &str) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        Some(Self { client: client.native_ptr(), answers: Answers::new(client), topic })
    }

    /// The topic's id, from a queue of its own: an answer to an earlier request may be about an earlier topic.
    ///
    /// # Errors
    /// The broker's message, or no answer within `timeout`.
    pub(super) fn of<C: ClientContext>(
        client: &Client<C>,
        topic: &str,
        timeout: Duration,
    ) -> Result<Option<String>, String> {
        let Some(ids) = Self::new(client, topic) else { return Ok(None) };
        ids.ask(timeout);
        in_time(ids.answer(timeout))
    }

    /// Sends a request. It is answered or fails within `timeout`.
    pub(super) fn ask(&self, timeout: Duration) {
        self.send(timeout, false);
    }

    fn send(&self, timeout: Duration, with_rights: bool) {
        let mut names = [self.topic.as_ptr()];
        // SAFETY: librdkafka copies the names and the options before it returns; both are freed here once.
        unsafe {
            let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
            let describe = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = options(self.client, describe, timeout);
            let refused = c::rd_kafka_AdminOptions_set_include_authorized_operations(
                options,
                i32::from(with_rights),
            );
            if !refused.is_null() {
                c::rd_kafka_error_destroy(refused);
            }
            c::rd_kafka_DescribeTopics(self.client, topics, options, self.answers.0);
            c::rd_kafka_AdminOptions_destroy(options);
            c::rd_kafka_TopicCollection_destroy(topics);
        }
    }

    /// Waits up to `timeout` for an answer: the id in librdkafka's base64, `None` from a broker without topic ids, or
    /// the broker's error message. The outer `None`: no answer yet.
    pub(super) fn answer(&self, timeout: Duration) -> Option<Result<Option<String>, String>> {
        // SAFETY: the description is alive while `id_of` runs.
        self.described(timeout, |topic| unsafe { id_of(topic) })
    }

    /// Waits for an answer and reads it. A broker too old for the request counts as one that does not say it.
    fn described<T>(
        &self,
        timeout: Duration,
        read: impl Fn(*const c::rd_kafka_TopicDescription_t) -> Option<T>,
    ) -> Option<Result<Option<T>, String>> {
        self.answers.next(timeout, |event| {
            // SAFETY: the event lives while it is read.
            unsafe { description(event) }.map(|topic| topic.and_then(read))
        })
    }
}

/// Whether the user may write to the topic (KIP-430); `None` where the broker does not say it.
///
/// # Errors
/// The broker's message, or no answer within `timeout`.
pub(super) fn may_write<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<bool>, String> {
    let Some(topics) = TopicIds::new(client, topic) else { return Ok(None) };
    topics.send(timeout, true);
    // SAFETY: the description is alive while the closure runs; librdkafka gives `count` operations, or a null pointer.
    let answer = topics.described(timeout, |topic| unsafe {
        let mut count = 0;
        let operations = c::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        (!operations.is_null()).then(|| {
            let write = c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE;
            (0..count).any(|index| *operations.add(index) == write)
        })
    });
    in_time(answer)
}

/// The description of the topic in an answer, which lives as long as the event; `None` from a broker too old for it.
///
/// # Safety
/// `event` must be a live event.
unsafe fn description(
    event: *mut c::rd_kafka_event_t,
) -> Result<Option<*const c::rd_kafka_TopicDescription_t>, String> {
    // SAFETY: every pointer is tested before it is used and belongs to the event, which outlives this function.
    unsafe {
        match c::rd_kafka_event_error(event) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => return Ok(None),
            _ => return Err(text(c::rd_kafka_event_error_string(event)).unwrap_or_default()),
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer to another question".to_owned());
        }
        let mut count = 0;
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return Err("an answer without the topic".to_owned());
        }
        let topic = *topics;
        let error = c::rd_kafka_TopicDescription_error(topic);
        if !error.is_null()
            && c::rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return Err(text(c::rd_kafka_error_string(error)).unwrap_or_default());
        }
        Ok(Some(topic))
    }
}

/// # Safety
/// `topic` must be a live description.
unsafe fn id_of(topic: *const c::rd_kafka_TopicDescription_t) -> Option<String> {
    // SAFETY: the id is tested before it is used and belongs to the description.
    unsafe {
        let id = c::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() { None } else { text(c::rd_kafka_Uuid_base64str(id)) }
    }
}

/// The member's generation (its epoch where the broker assigns, KIP-848): 0 or less until the group has accepted it.
pub(super) fn generation<C: ClientContext>(client: &Client<C>) -> i32 {
    // SAFETY: the client lives; this function owns the metadata and destroys it once.
    unsafe {
        let metadata = c::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = c::rd_kafka_consumer_group_metadata_generation_id(metadata);
        c::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// A consumer group as its coordinator describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Whether the broker assigns the partitions (KIP-848), instead of a member.
    pub(crate) is_broker_assigned: bool,
    /// The name of the assignor: `cooperative-sticky`, `range`.
    pub(crate) assignor: String,
    /// Client id and host of each member.
    pub(crate) members: Vec<(String, String)>,
}

/// Asks the coordinator to describe a group.
///
/// # Errors
/// The broker's error message, or no answer within `timeout`.
pub(super) fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Group, String> {
    let name = CString::new(group).map_err(|error| error.to_string())?;
    let (answers, mut names) = (Answers::new(client), [name.as_ptr()]);
    let client = client.native_ptr();
    // SAFETY: librdkafka copies the names and the options before it returns; the options are destroyed here, once.
    unsafe {
        let describe = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = options(client, describe, timeout);
        c::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), 1, options, answers.0);
        c::rd_kafka_AdminOptions_destroy(options);
    }
    // SAFETY: the event lives while it is read.
    in_time(answers.next(timeout, |event| unsafe { group_of(event) }))
}

/// # Safety
/// `event` must be a live event.
unsafe fn group_of(event: *mut c::rd_kafka_event_t) -> Result<Group, String> {
    // SAFETY: every pointer is tested before it is used and belongs to the event, which outlives this function.
    unsafe {
        if c::rd_kafka_event_error(event) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(c::rd_kafka_event_error_string(event)).unwrap_or_default());
        }
        let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
        if result.is_null() {
            return Err("an answer to another question".to_owned());
        }
        let mut count = 0;
        let groups = c::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if groups.is_null() || count == 0 {
            return Err("an answer without the group".to_owned());
        }
        let group = *groups;
        let error = c::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            match c::rd_kafka_error_code(error) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                // The group never existed, or was deleted.
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => return Ok(Group::default()),
                _ => return Err(text(c::rd_kafka_error_string(error)).unwrap_or_default()),
            }
        }
        let members = (0..c::rd_kafka_ConsumerGroupDescription_member_count(group)).map(|index| {
            let member = c::rd_kafka_ConsumerGroupDescription_member(group, index);
            let string = |found| text(found).unwrap_or_default();
            let client = string(c::rd_kafka_MemberDescription_client_id(member));
            (client, string(c::rd_kafka_MemberDescription_host(member)))
        });
        let kind = c::rd_kafka_ConsumerGroupDescription_type(group);
        let assignor = c::rd_kafka_ConsumerGroupDescription_partition_assignor(group);
        Ok(Group {
            is_broker_assigned: text(c::rd_kafka_consumer_group_type_name(kind))
                .is_some_and(|name| name.eq_ignore_ascii_case("consumer")),
            assignor: text(assignor).unwrap_or_default(),
            members: members.collect(),
        })
    }
}

/// # Safety
/// `text` must be null or point to a string that ends with a zero byte.
unsafe fn text(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: the caller guarantees it.
    unsafe { (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned()) }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, Producer};
    use rdkafka::topic_partition_list::Offset;

    use super::*;

    /// Sends a record with these headers; each name ends with a zero byte. rdkafka accepts only names that are UTF-8.
    fn send(producer: &BaseProducer, headers: &[(&[u8], Option<&[u8]>)]) {
        let topic = CString::new("t").unwrap();
        let mut options = vec![c::rd_kafka_vu_t {
            vtype: c::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC,
            u: c::rd_kafka_vu_s__bindgen_ty_1 { cstr: topic.as_ptr() },
        }];
        options.extend(headers.iter().map(|(name, value)| c::rd_kafka_vu_t {
            vtype: c::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADER,
            u: c::rd_kafka_vu_s__bindgen_ty_1 {
                header: c::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                    name: name.as_ptr().cast(),
                    val: value.map_or(std::ptr::null(), |value| value.as_ptr().cast()),
                    size: value.map_or(0, |value| value.len().cast_signed()),
                },
            },
        }));
        let client = producer.client().native_ptr();
        // SAFETY: the length is the number of options, and librdkafka copies them before their memory is freed.
        let error = unsafe { c::rd_kafka_produceva(client, options.as_ptr(), options.len()) };
        assert!(error.is_null());
    }

    #[test]
    fn headers_come_out_whatever_their_names_hold() {
        let cluster = MockCluster::new(1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g");
        let producer: BaseProducer = config.create().unwrap();
        send(&producer, &[(b"\xffname\0", Some(b"\xff\0")), (b"\0", None), (b"a\0", Some(b""))]);
        send(&producer, &[]);
        producer.flush(Duration::from_secs(30)).unwrap();

        let consumer: BaseConsumer = config.create().unwrap();
        let mut first = TopicPartitionList::new();
        // A record without a key goes to any partition.
        for partition in 0..4 {
            first.add_partition_offset("t", partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&first).unwrap();
        let mut all = Vec::new();
        while all.len() < 2 {
            let message =
                consumer.poll(Duration::from_secs(30)).expect("a record in time").unwrap();
            assert_eq!(message.payload(), None);
            let headers = headers(&message)
                .map(|(name, value)| (name.into_owned(), value.map(<[u8]>::to_vec)));
            all.push(headers.collect::<Vec<_>>());
        }
        all.sort_by_key(Vec::len);
        let name = |name: &str| name.to_owned();
        let expected = vec![
            (name("\u{fffd}name"), Some(vec![0xff, 0])),
            (name(""), None),
            (name("a"), Some(Vec::new())),
        ];
        assert_eq!(all, [Vec::new(), expected]);
    }
}
