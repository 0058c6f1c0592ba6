//! `tfa`: was a second factor verified on the act that made the version public? (crates/model/README.md, tfa)

use std::time::Duration;

use model::{Auth, Credential, PublishEvent, SecondFactor, TfaReason, TfaVerdict, Timestamp};

use crate::TfaRules;

/// How long before the act a second factor may have been verified: registries accept it for five minutes.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Evaluates an event; for a staged version its approval, which is the outer act. The first rule that matches decides.
///
/// Pure, and without allocation. Ignores the policy of the account or package, because a policy is a demand and does
/// not show that a second factor was used.
#[must_use]
pub fn verdict(event: &PublishEvent<'_>, rules: &TfaRules) -> TfaVerdict {
    evaluate(&event.act.auth, event.act.at, rules)
}

fn evaluate(auth: &Auth<'_>, at: Timestamp, rules: &TfaRules) -> TfaVerdict {
    // A block without a known field counts as missing.
    let reported = auth.second_factor.as_ref().filter(|factor| **factor != SecondFactor::default());
    if let Some(factor) = reported {
        let reason = if is_verified(factor, at) {
            TfaReason::SecondFactor
        } else if factor.presented == Some(false) {
            TfaReason::NoSecondFactor
        } else {
            TfaReason::SecondFactorRejected
        };
        return reason.verdict();
    }
    if matches!(auth.credential, Credential::Oidc | Credential::AutomationToken)
        || auth.bypass2fa == Some(true)
    {
        return TfaReason::NoHumanFactor.verdict();
    }
    if let Some(several) = several_factors(auth.amr.iter().map(AsRef::as_ref)) {
        return TfaVerdict { tfa: Some(several), reason: TfaReason::Amr };
    }
    if let Some(acr) = auth.acr.as_deref() {
        let listed = |levels: &[String]| levels.iter().any(|level| level == acr);
        let tfa = if listed(&rules.acr_true) {
            Some(true)
        } else {
            listed(&rules.acr_false).then_some(false)
        };
        if tfa.is_some() {
            return TfaVerdict { tfa, reason: TfaReason::Acr };
        }
    }
    if auth.credential == Credential::Password {
        return TfaReason::PasswordOnly.verdict();
    }
    TfaReason::NotReported.verdict()
}

fn is_verified(factor: &SecondFactor<'_>, at: Timestamp) -> bool {
    let is_fresh = match factor.verified_at.as_deref() {
        None => true,
        Some(text) => Timestamp::parse(text)
            .is_ok_and(|verified_at| at.before(MAX_AGE) <= verified_at && verified_at <= at),
    };
    factor.verified == Some(true)
        && matches!(factor.method.as_deref(), Some("totp" | "webauthn" | "recovery_code" | "sms"))
        && is_fresh
}

/// Whether the methods of RFC 8176 contain two kinds of factor: knowledge, possession, biometrics. `None` without a
/// method of a known kind; methods about place, number or other circumstances (`geo`, `mca`, `user` …) are not a kind.
fn several_factors<'a>(methods: impl Iterator<Item = &'a str>) -> Option<bool> {
    let (mut know, mut have, mut are) = (false, false, false);
    for method in methods {
        match method {
            "mfa" => return Some(true),
            "pwd" | "pin" | "kba" => know = true,
            "otp" | "hwk" | "swk" | "sc" | "sms" | "tel" | "pop" => have = true,
            "face" | "fpt" | "iris" | "retina" | "vbm" => are = true,
            _ => {}
        }
    }
    match u8::from(know) + u8::from(have) + u8::from(are) {
        0 => None,
        1 => Some(false),
        _ => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: &str = "2019-07-25T18:09:11.204Z";

    fn rules() -> TfaRules {
        TfaRules {
            acr_true: vec!["aal2".into(), "both".into()],
            acr_false: vec!["aal1".into(), "both".into()],
        }
    }

    fn evaluated(auth: &Auth<'_>) -> (Option<bool>, TfaReason) {
        let TfaVerdict { tfa, reason } = evaluate(auth, Timestamp::parse(AT).unwrap(), &rules());
        (tfa, reason)
    }

    fn factor(
        presented: Option<bool>,
        verified: Option<bool>,
        method: Option<&'static str>,
        verified_at: Option<&'static str>,
    ) -> SecondFactor<'static> {
        SecondFactor {
            presented,
            verified,
            method: method.map(Into::into),
            verified_at: verified_at.map(Into::into),
        }
    }

    fn with(second_factor: SecondFactor<'static>) -> Auth<'static> {
        Auth { second_factor: Some(second_factor), ..Auth::default() }
    }

    fn with_amr(amr: &[&'static str]) -> Auth<'static> {
        Auth { amr: amr.iter().map(|&method| method.into()).collect(), ..Auth::default() }
    }

    const VERIFIED: (Option<bool>, TfaReason) = (Some(true), TfaReason::SecondFactor);
    const REJECTED: (Option<bool>, TfaReason) = (Some(false), TfaReason::SecondFactorRejected);
    const NONE: (Option<bool>, TfaReason) = (Some(false), TfaReason::NoSecondFactor);
    const MACHINE: (Option<bool>, TfaReason) = (Some(false), TfaReason::NoHumanFactor);
    const NOT_REPORTED: (Option<bool>, TfaReason) = (None, TfaReason::NotReported);

    #[test]
    fn four_methods_count() {
        for method in ["totp", "webauthn", "recovery_code", "sms"] {
            assert_eq!(evaluated(&with(factor(None, Some(true), Some(method), None))), VERIFIED);
            assert_eq!(
                evaluated(&with(factor(Some(true), Some(false), Some(method), None))),
                REJECTED
            );
            assert_eq!(evaluated(&with(factor(Some(true), None, Some(method), None))), REJECTED);
        }
        for method in ["email", "remembered_device", "TOTP", "", "totp "] {
            assert_eq!(evaluated(&with(factor(None, Some(true), Some(method), None))), REJECTED);
        }
        assert_eq!(evaluated(&with(factor(None, Some(true), None, None))), REJECTED);
    }

    #[test]
    fn a_factor_is_fresh_for_five_minutes_to_the_microsecond() {
        for (verified_at, expected) in [
            ("2019-07-25T18:09:11.204Z", VERIFIED),
            ("2019-07-25T20:09:11.204+02:00", VERIFIED),
            ("2019-07-25T18:04:11.204Z", VERIFIED),
            ("2019-07-25T18:04:11.203999Z", REJECTED),
            ("2019-07-25T18:09:11.204001Z", REJECTED),
            ("", REJECTED),
            ("just now", REJECTED),
            ("2019-07-25", REJECTED),
        ] {
            let auth = with(factor(Some(true), Some(true), Some("totp"), Some(verified_at)));
            assert_eq!(evaluated(&auth), expected, "{verified_at}");
        }
    }

    #[test]
    fn the_first_rule_decides() {
        // `verified` is checked before `presented`.
        assert_eq!(evaluated(&with(factor(Some(false), Some(true), Some("totp"), None))), VERIFIED);
        assert_eq!(evaluated(&with(factor(Some(false), Some(true), Some("email"), None))), NONE);
        assert_eq!(evaluated(&with(factor(Some(false), None, None, None))), NONE);
        assert_eq!(evaluated(&with(factor(Some(true), None, None, None))), REJECTED);
        assert_eq!(evaluated(&with(factor(None, None, None, Some("x")))), REJECTED);
        let everything = Auth {
            credential: Credential::Oidc,
            bypass2fa: Some(true),
            amr: vec!["mfa".into()],
            acr: Some("aal2".into()),
            second_factor: Some(factor(None, Some(true), Some("sms"), None)),
        };
        assert_eq!(evaluated(&everything), VERIFIED);
        let without_factor = Auth { second_factor: Some(SecondFactor::default()), ..everything };
        assert_eq!(evaluated(&without_factor), MACHINE);
        let bypass = Auth { credential: Credential::GranularToken, ..without_factor };
        assert_eq!(evaluated(&bypass), MACHINE);
        let automation =
            Auth { credential: Credential::AutomationToken, bypass2fa: None, ..bypass.clone() };
        assert_eq!(evaluated(&automation), MACHINE);
        let password = Auth { credential: Credential::Password, bypass2fa: Some(false), ..bypass };
        assert_eq!(evaluated(&password), (Some(true), TfaReason::Amr));
        let acr = Auth { amr: vec!["geo".into()], ..password };
        assert_eq!(evaluated(&acr), (Some(true), TfaReason::Acr));
        let unknown_acr = Auth { acr: Some("AAL2".into()), ..acr };
        assert_eq!(evaluated(&unknown_acr), (Some(false), TfaReason::PasswordOnly));
    }

    #[test]
    fn nothing_said_is_not_reported() {
        assert_eq!(evaluated(&Auth::default()), NOT_REPORTED);
        assert_eq!(evaluated(&with(SecondFactor::default())), NOT_REPORTED);
        for credential in [Credential::SessionToken, Credential::GranularToken] {
            assert_eq!(
                evaluated(&Auth { credential, bypass2fa: Some(false), ..Auth::default() }),
                NOT_REPORTED
            );
        }
        assert_eq!(
            evaluated(&with_amr(&["geo", "user", "rba", "wia", "mca", "OTP", ""])),
            NOT_REPORTED
        );
        assert_eq!(evaluated(&Auth { acr: Some("".into()), ..Auth::default() }), NOT_REPORTED);
    }

    #[test]
    fn methods_are_grouped_into_kinds() {
        let kinds: [&[&'static str]; 3] = [
            &["pwd", "pin", "kba"],
            &["otp", "hwk", "swk", "sc", "sms", "tel", "pop"],
            &["face", "fpt", "iris", "retina", "vbm"],
        ];
        for (at, kind) in kinds.iter().enumerate() {
            assert_eq!(evaluated(&with_amr(kind)), (Some(false), TfaReason::Amr));
            for &method in *kind {
                assert_eq!(evaluated(&with_amr(&[method, "geo"])), (Some(false), TfaReason::Amr));
                for &other in kinds[(at + 1) % 3] {
                    assert_eq!(
                        evaluated(&with_amr(&[method, other])),
                        (Some(true), TfaReason::Amr)
                    );
                }
            }
        }
        assert_eq!(evaluated(&with_amr(&["mfa"])), (Some(true), TfaReason::Amr));
        assert_eq!(evaluated(&with_amr(&["pwd", "mfa"])), (Some(true), TfaReason::Amr));
        assert_eq!(evaluated(&with_amr(&["MFA", "pwd"])), (Some(false), TfaReason::Amr));
    }

    #[test]
    fn levels_are_the_configurations_and_true_comes_first() {
        for (acr, tfa) in [("aal2", true), ("aal1", false), ("both", true)] {
            let auth = Auth { acr: Some(acr.into()), ..Auth::default() };
            assert_eq!(evaluated(&auth), (Some(tfa), TfaReason::Acr), "{acr}");
        }
    }

    proptest! {
        #[test]
        fn null_means_not_reported_and_nothing_else(amr in proptest::collection::vec("(pwd|otp|mfa|geo|face|x)", 0..4), acr in proptest::option::of("aal[0-3]"), bypass2fa: Option<bool>, credential in 0..Credential::ALL.len()) {
            let auth = Auth {
                credential: Credential::ALL[credential],
                bypass2fa,
                amr: amr.into_iter().map(Into::into).collect(),
                acr: acr.map(Into::into),
                second_factor: None,
            };
            let (tfa, reason) = evaluated(&auth);
            prop_assert_eq!(tfa.is_none(), reason == TfaReason::NotReported);
        }
    }
}
