//! Acts of an operator: offsets, commands, the generation, exit lists.

use std::fs;

use jiff::Timestamp;
use testkit::eventually;

use crate::event::{BASE, EXITS, MINUTE, exit};
use crate::random::Random;
use crate::record::Maker;
use crate::rule::List;
use crate::run::{PATIENCE, Run};
use crate::schedule::{Fault, index, one_in, pick};
use crate::support::write_snapshot;

impl Run<'_> {
    pub(crate) async fn operate(&mut self, fault: Fault, random: &mut Random, maker: &mut Maker) {
        match fault {
            Fault::OffsetsDeleted => {
                self.settle(fault).await;
                self.stop_all();
                testkit::delete_group(&self.scene.brokers, &self.scene.group).await;
                self.put(maker.records(index(random, 60))).await;
                self.start_all();
            }
            Fault::OffsetsReset => {
                self.settle(fault).await;
                self.stop_all();
                self.reset("--to-earliest");
                self.sent.read_again(self.generation, true);
                self.start_all();
            }
            Fault::OffsetsForward => self.skip(random, maker).await,
            Fault::Replay => self.replay(random, maker).await,
            Fault::Redrive => {
                self.must(&["dead-letters", "redrive"]);
            }
            Fault::Reconcile => self.reconcile().await,
            Fault::Generation => {
                self.generation += 1;
                self.stop_all();
                self.start_all();
            }
            _ => {
                for _ in 0..=index(random, 3) {
                    self.list(random).await;
                }
            }
        }
    }

    /// Sets the group's offsets with Kafka's own command.
    fn reset(&self, to: &str) {
        let whole = ["--group", &self.scene.group, "--topic", &self.scene.topic];
        let arguments = [&whole[..], &["--reset-offsets", to, "--execute"]].concat();
        testkit::consumer_groups(&self.scene.brokers, &arguments);
    }

    /// Skips records by setting the group's offsets forwards.
    async fn skip(&mut self, random: &mut Random, maker: &mut Maker) {
        self.settle(Fault::OffsetsForward).await;
        self.sent.found(self.evidence.lists.len());
        self.stop_all();
        let first = self.sent.records.len();
        self.put(maker.records(1 + index(random, 60))).await;
        self.reset("--to-latest");
        let skipped = &mut self.sent.records[first..];
        skipped.iter_mut().for_each(|sent| sent.excused = true);
        self.gap = Some(f64::from(u32::try_from(skipped.len()).unwrap_or(0)));
        self.start_all();
    }

    /// Runs a command of the ingester, which must succeed.
    fn must(&mut self, arguments: &[&str]) -> String {
        let command = self.scene.ingester_command(arguments[0], "127.0.0.1:0");
        let command = command.args(&arguments[1..]);
        let environment = self.environment();
        let command =
            environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let mut command = command.spawn();
        let code = command.wait_exit(PATIENCE).code();
        let log = command.log();
        assert_eq!(code, Some(0), "{arguments:?}:\n{log}");
        self.logs.push_str(&log);
        log
    }

    async fn replay(&mut self, random: &mut Random, maker: &mut Maker) {
        let sending = self.meanwhile(random, maker);
        self.must(&["replay", "--from", "earliest", "--yes"]);
        self.sent.read_again(self.generation, false);
        self.join(sending).await;
    }

    /// Repairs all differences, then checks that there are none.
    async fn reconcile(&mut self) {
        self.settle(Fault::Reconcile).await;
        self.must(&["reconcile", "--from", "earliest", "--repair"]);
        // Rows of skipped records are missing and are written. Equal verdicts of an older generation stay.
        let rejected = |expected: &crate::record::Expected| {
            matches!(expected, crate::record::Expected::Rejected(_))
        };
        for sent in self.sent.records.iter_mut().filter(|sent| sent.there) {
            sent.excused = sent.excused && rejected(&sent.outgoing.expected);
        }
        self.must(&["reconcile", "--from", "earliest"]);
    }

    /// A list arrives, late or early, or a file that is not a list.
    async fn list(&mut self, random: &mut Random) {
        let minutes = i64::try_from(random.below(20 * 60)).unwrap_or(0) - 10 * 60;
        let time = BASE + minutes * MINUTE;
        if self.evidence.lists.iter().any(|list| list.time == time) {
            return;
        }
        let folder = if one_in(random, 3) { self.lists.join("older") } else { self.lists.clone() };
        fs::create_dir_all(&folder).expect("a folder can be made");
        let name = name(time);
        if one_in(random, 4) {
            return self.damaged_list(random, &name).await;
        }
        let exits: Vec<String> = (0..EXITS).filter(|_| one_in(random, 4)).map(exit).collect();
        let texts: Vec<&str> = exits.iter().map(String::as_str).collect();
        write_snapshot(&folder, &name, &texts);
        self.evidence.lists.push(List { time, exits });
    }

    /// The file must be refused and counted, and must not replace another list.
    async fn damaged_list(&mut self, random: &mut Random, name: &str) {
        let refused =
            |run: &Self| -> f64 { run.ingesters[0].metrics().sum("exit_lists_refused_total") };
        let before = refused(self);
        let page = "<!DOCTYPE html>\n<html><body>193.218.118.101</body></html>\n";
        let cut = testkit::exit_list_of(60) + "193.218.118";
        let short = "193.218.118.101\n193.218.118.102\n";
        let text = pick(random, &["", page, cut.as_str(), short]);
        let partial = self.lists.join(".partial");
        fs::write(&partial, text).expect("a file can be written");
        let file = self.lists.join(format!("{name}-damaged"));
        fs::rename(partial, &file).expect("a file can be put in place");
        eventually("the damaged list to be refused", PATIENCE, async || refused(self) > before)
            .await;
        if one_in(random, 2) {
            fs::remove_file(file).expect("the file is there");
        }
    }
}

/// The file name of a list, which is its time.
fn name(time: i64) -> String {
    let time = Timestamp::from_microsecond(time).expect("a time of the run is in the range");
    time.strftime("%Y-%m-%d-%H-%M-%S").to_string()
}
