//! More cases: the fields of `data`, their bounds, and the checks after them.

use serde_json::{Value, json};

use crate::rejection_cases::{ADDRESS, Cases, Expected, MARK, REFUSED_VERSION, name};
use crate::support::{structured, with, without};

impl Cases {
    pub(crate) fn names(&mut self) {
        let bad_names = [
            json!(""),
            json!(" pg"),
            json!("pg\t"),
            json!("pg\u{a0}"),
            json!("\u{2003}pg"),
            json!("p\u{7}g"),
            json!("p\u{0}g"),
            json!("p\u{85}g"),
            json!("p\u{7f}g"),
            json!("p\ng"),
            json!(7),
            json!(["pg"]),
        ];
        for field in ["/data/package/name", "/data/package/version", "/data/actor/username"] {
            self.wrong("bad_field", field, bad_names.iter().cloned());
        }
        // Bounds are in bytes: 171 characters of three bytes are 513.
        for (field, longest) in [
            ("/data/package/name", 512),
            ("/data/package/version", 256),
            ("/data/actor/username", 256),
        ] {
            let too_long = "€".repeat(longest / 3) + &"x".repeat(longest % 3 + 1);
            self.wrong("bad_field", field, [json!(MARK.repeat(200)), json!(too_long)]);
        }
        let version = "v".repeat(256);
        self.right("/data/package/version", json!(version), &[]);
        let username = "é".repeat(128);
        self.right("/data/actor/username", json!(username), &[]);
        self.right("/data/actor/username", json!("Some Body"), &[("username", Some("Some Body"))]);
        self.right("/data/actor/username", json!(null), &[("username", None)]);
        self.right(
            "/data/package/version",
            json!("1.0.0-BETA+Ä"),
            &[("version", Some("1.0.0-BETA+Ä"))],
        );
    }

    pub(crate) fn fields(&mut self) {
        let text = || json!(MARK);
        let number = || json!(20_190_725);
        let wrong = [
            ("/data", vec![text(), number(), json!([])]),
            ("/data/package", vec![text(), json!([])]),
            ("/data/package/ecosystem", vec![number(), json!({})]),
            ("/data/publishedAt", vec![number(), json!(true)]),
            (
                "/data/revision",
                vec![
                    json!(-1),
                    json!(1.5),
                    json!("1"),
                    json!(2_147_483_648_u32),
                    json!(1e300),
                    json!(true),
                ],
            ),
            ("/data/actor", vec![text(), json!(["user"])]),
            ("/data/actor/kind", vec![number(), json!({})]),
            ("/data/request", vec![json!(ADDRESS), json!([ADDRESS])]),
            ("/data/request/ip", vec![json!([ADDRESS]), json!({ "v4": ADDRESS }), number()]),
            ("/data/request/edgeTor", vec![json!("true"), json!(1), json!(0)]),
            ("/data/request/userAgent", vec![number()]),
            ("/data/auth", vec![text(), json!([])]),
            ("/data/auth/credential", vec![number(), json!(["oidc"])]),
            ("/data/auth/bypass2fa", vec![json!("false"), json!(0)]),
            (
                "/data/auth/amr",
                vec![json!("pwd"), json!([1]), json!({"pwd": true}), json!([["pwd"]])],
            ),
            ("/data/auth/acr", vec![json!(2), json!(["1"])]),
            ("/data/auth/secondFactor", vec![json!(true), json!([]), text()]),
            ("/data/auth/secondFactor/presented", vec![json!("true"), json!(1)]),
            ("/data/auth/secondFactor/verified", vec![json!("true"), json!(1)]),
            ("/data/auth/secondFactor/method", vec![json!(["totp"]), json!(true)]),
            ("/data/auth/secondFactor/verifiedAt", vec![number(), json!({})]),
            ("/data/staged", vec![text(), json!(true), json!([])]),
            (
                "/data/staged",
                vec![json!({"at": 1}), json!({"actor": MARK}), json!({"request": {"ip": 1}})],
            ),
            (
                "/data/staged",
                vec![json!({"auth": {"amr": "pwd"}}), json!({"actor": {"username": ""}})],
            ),
        ];
        for (pointer, values) in wrong {
            self.wrong("bad_field", pointer, values);
        }
        for pointer in ["/subject", "/time"] {
            let record = structured(&with(self.event(), pointer, json!(1)));
            self.rejected("bad_field", &format!("{pointer} is a number"), record);
        }
        self.right("/data/revision", json!(2_147_483_647), &[("revision", Some("2147483647"))]);
        self.right("/data/revision", json!(null), &[("revision", Some("0"))]);
        self.right("/data/unknown", json!({"name": 1}), &[]);
        let missing =
            without(with(self.event(), "/data/revision", json!("x")), "/data/package/name");
        self.rejected("bad_field", "a bad field outranks a missing one", structured(&missing));
    }

    pub(crate) fn missing(&mut self) {
        for pointer in [
            "/data/package",
            "/data/package/ecosystem",
            "/data/package/name",
            "/data/package/version",
        ] {
            self.wrong("missing_field", pointer, [json!(null)]);
            let record = structured(&without(self.event(), pointer));
            self.rejected("missing_field", &format!("no {pointer}"), record);
        }
        self.wrong("missing_field", "/data", [json!(null), json!({})]);
        self.rejected("missing_field", "no data", structured(&without(self.event(), "/data")));
        let timeless = without(with(self.event(), "/data/publishedAt", json!(null)), "/time");
        self.rejected("missing_field", "neither publishedAt nor time", structured(&timeless));
        let other = with(
            without(self.event(), "/data/package/version"),
            "/data/package/ecosystem",
            json!("pypi"),
        );
        self.rejected("missing_field", "missing outranks another ecosystem", structured(&other));
        let by_time = with(
            without(self.event(), "/data/publishedAt"),
            "/time",
            json!("2019-07-25T17:00:00Z"),
        );
        let created = vec![("created", Some("2019-07-25T17:00:00.000000Z"))];
        self.add("the event's own time stands in", structured(&by_time), Expected::Row(created));
        for pointer in [
            "/data/actor",
            "/data/request",
            "/data/auth",
            "/data/staged",
            "/subject",
            "/datacontenttype",
        ] {
            self.add(
                &format!("{pointer} is null"),
                structured(&with(self.event(), pointer, json!(null))),
                Expected::Row(vec![]),
            );
            self.add(
                &format!("no {pointer}"),
                structured(&without(self.event(), pointer)),
                Expected::Row(vec![]),
            );
        }
    }

    pub(crate) fn ecosystems_and_subjects(&mut self) {
        self.wrong(
            "wrong_ecosystem",
            "/data/package/ecosystem",
            [json!("pypi"), json!("NPM"), json!("")],
        );
        let both = with(
            with(self.event(), "/data/package/ecosystem", json!("pypi")),
            "/subject",
            json!(MARK),
        );
        let both = with(both, "/data/publishedAt", json!(MARK));
        self.rejected(
            "wrong_ecosystem",
            "the ecosystem outranks subject and time",
            structured(&both),
        );
        let number = self.0.len();
        for subject in [
            String::new(),
            MARK.into(),
            format!("{}@1.0.0", name(number)),
            "pkg:npm/%40case/other@1.0.0".into(),
            "pkg:npm/left-pad@1.0.0".into(),
            "pkg:npm/@1.0.0".into(),
            "pkg:npm".into(),
            "%70kg:npm/x@1".into(),
        ] {
            self.wrong("subject_mismatch", "/subject", [json!(subject)]);
        }
        for shape in [
            "pkg:npm/%40case/{}@1.0.1",
            "pkg:npm/%40case/{}",
            "pkg:pypi/%40case/{}@1.0.0",
            "pkg:npm/case/{}@1.0.0",
            "npm/%40case/{}@1.0.0",
        ] {
            let subject = shape.replace("{}", &self.0.len().to_string());
            let record = structured(&with(self.event(), "/subject", json!(subject)));
            self.rejected("subject_mismatch", shape, record);
        }
        for shape in [
            "pkg:npm/%40case/{}@1.0.0",
            "pkg:npm/%40case/{}@1%2E0.0",
            "pkg:npm/%40case/{}@1.0.0?repository_url=x#y",
        ] {
            let subject = shape.replace("{}", &self.0.len().to_string());
            self.add(
                shape,
                structured(&with(self.event(), "/subject", json!(subject))),
                Expected::Row(vec![]),
            );
        }
        let plus = with(self.event(), "/data/package/version", json!("1.0.0+Build 7"));
        let subject = format!("pkg:npm/%40case/{}@1.0.0%2BBuild%207", self.0.len());
        self.add(
            "a version with escapes",
            structured(&with(plus, "/subject", json!(subject))),
            Expected::Row(vec![]),
        );
        let late =
            with(with(self.event(), "/subject", json!(MARK)), "/data/publishedAt", json!(MARK));
        self.rejected("subject_mismatch", "the subject outranks the time", structured(&late));
    }

    pub(crate) fn times(&mut self) {
        let invalid = [
            "",
            "2019-07-25",
            "2019-07-25T18:09:11",
            "2019-02-30T18:09:11Z",
            "2019-07-25T18:09:60Z",
            "2019-07-25T24:00:00Z",
            "2019-07-25T18:09:11+24:00",
            "2019-07-25 18:09:11Z",
            " 2019-07-25T18:09:11Z",
            "2019-7-25T18:09:11Z",
            "2019-07-25T18:09:11.Z",
            "2019-07-25T18:09Z",
            "1564078151204",
            "2019-07-25T18:09:11+0000",
            MARK,
        ];
        self.wrong("invalid_time", "/data/publishedAt", invalid.map(|text| json!(text)));
        let no_time = with(without(self.event(), "/data/publishedAt"), "/time", json!(MARK));
        self.rejected("invalid_time", "the time that stands in", structured(&no_time));
        self.right("/time", json!(MARK), &[]);
        for (text, created) in [
            ("2019-07-25t18:09:11Z", "2019-07-25T18:09:11.000000Z"),
            ("2019-07-25T18:09:11.2049999Z", "2019-07-25T18:09:11.204999Z"),
            ("2019-07-25T18:08:11+23:59", "2019-07-24T18:09:11.000000Z"),
            ("2019-07-24T18:10:11-23:59", "2019-07-25T18:09:11.000000Z"),
            ("2019-07-25T18:09:59.999999999-00:00", "2019-07-25T18:09:59.999999Z"),
            // Five minutes after the record's timestamp, to the microsecond.
            ("2019-07-25T18:15:00Z", "2019-07-25T18:15:00.000000Z"),
            ("2019-07-25T18:15:00.0000009Z", "2019-07-25T18:15:00.000000Z"),
            ("2019-07-25T20:15:00+02:00", "2019-07-25T18:15:00.000000Z"),
        ] {
            self.right("/data/publishedAt", json!(text), &[("created", Some(created))]);
        }
        let future = [
            "2019-07-25T18:15:00.000001Z",
            "2019-07-25T18:15:00.001Z",
            "2019-07-25T20:15:00.001+02:00",
            "9999-12-31T23:59:59Z",
        ];
        self.wrong("future_time", "/data/publishedAt", future.map(|text| json!(text)));
        self.wrong(
            "invalid_time",
            "/data/staged",
            ["2019-07-25T18:09:11.204001Z", "2019-07-25T18:09:12Z", "", MARK].map(staged),
        );
        for at in
            ["2019-07-25T18:09:11.204Z", "2019-07-25T18:09:11.2040009Z", "2019-07-20T00:00:00Z"]
        {
            self.right(
                "/data/staged",
                staged(at),
                &[("created", Some("2019-07-25T18:09:11.204000Z"))],
            );
        }
        self.right("/data/staged", json!({}), &[]);
        let both = with(
            with(self.event(), "/data/publishedAt", json!("2020-01-01T00:00:00Z")),
            "/data/staged",
            staged("no"),
        );
        self.rejected("invalid_time", "an invalid time outranks a future one", structured(&both));
    }

    pub(crate) fn words(&mut self) {
        self.right("/data/actor/kind", json!("robot"), &[("actor", Some("unknown"))]);
        self.right("/data/actor/kind", json!("User"), &[("actor", Some("unknown"))]);
        self.right("/data/actor/kind", json!(""), &[("actor", Some("unknown"))]);
        self.right("/data/actor/kind", json!("workflow"), &[("actor", Some("workflow"))]);
        self.right(
            "/data/auth/credential",
            json!("Session_Token"),
            &[("credential", Some("unknown"))],
        );
        self.right("/data/auth/credential", json!("oidc"), &[("credential", Some("oidc"))]);
        let rejected = [("tfa", Some("false")), ("tfa_reason", Some("second_factor_rejected"))];
        self.right("/data/auth/secondFactor/method", json!("TOTP"), &rejected);
        self.right("/data/auth/secondFactor/method", json!("email"), &rejected);
        self.right("/data/auth/secondFactor/verifiedAt", json!("yesterday"), &rejected);
        self.right(
            "/data/auth/secondFactor",
            json!({}),
            &[("tfa", Some("true")), ("tfa_reason", Some("amr"))],
        );
        let one_kind = json!({"amr": ["pwd", "OTP"]});
        self.right("/data/auth", one_kind, &[("tfa", Some("false")), ("tfa_reason", Some("amr"))]);
        self.right(
            "/data/auth",
            json!({"amr": ["OTP"]}),
            &[("tfa", None), ("tfa_reason", Some("not_reported"))],
        );
        self.right("/data/auth", json!(null), &[("tfa", None), ("credential", Some("unknown"))]);
        for (address, reason) in [
            ("", "bad_address"),
            ("71.160.223.45:443", "bad_address"),
            ("71.160.223.45, 10.0.0.1", "bad_address"),
            ("071.160.223.45", "bad_address"),
            ("10.1.2.3", "not_global"),
            ("::ffff:192.168.1.1", "not_global"),
            ("::ffff:71.160.223.45", "no_coverage"),
            ("2405:8100:8000::1", "prefix"),
        ] {
            self.right("/data/request/ip", json!(address), &[("tor_reason", Some(reason))]);
        }
        self.right(
            "/data/request/ip",
            json!(null),
            &[("tor", None), ("tor_reason", Some("no_address"))],
        );
        self.right(
            "/data/request/edgeTor",
            json!(true),
            &[("tor", Some("true")), ("tor_reason", Some("edge"))],
        );
        self.right(
            "/data/request/edgeTor",
            json!(false),
            &[("tor", None), ("tor_reason", Some("no_coverage"))],
        );
    }

    pub(crate) fn refused_by_store(&mut self) {
        self.wrong("refused_by_store", "/data/package/version", [json!(REFUSED_VERSION)]);
        self.right("/data/package/version", json!("6.6.7"), &[]);
    }
}

fn staged(at: &str) -> Value {
    json!({"at": at, "actor": {"kind": "user"}, "request": {"ip": ADDRESS}, "auth": {}})
}
