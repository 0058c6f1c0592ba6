//! The settings of the package managers, which decide where no location is said.

use serde_json::json;

use crate::common::{Folder, npm_lock};
use crate::selection::{asked, service, tarball};

/// A package in the scope `corp` and an open one, without locations.
const PNPM: &str = "lockfileVersion: '9.0'\npackages:\n  open@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n  '@corp/secret@1.0.0':\n    resolution: {integrity: sha512-AAAA}\n";
const YARN: &str = "# yarn lockfile v1\n\n\n\"@corp/secret@1.0.0\":\n  version \"1.0.0\"\n\nopen@1.0.0:\n  version \"1.0.0\"\n";

const BERRY: &str = "__metadata:\n  version: 8\n\n\"@corp/secret@npm:^1.0.0\":\n  version: 1.0.0\n  resolution: \"@corp/secret@npm:1.0.0\"\n\n\"open@npm:^1.0.0\":\n  version: 1.0.0\n  resolution: \"open@npm:1.0.0\"\n";
const BUN: &str = "{\n  \"lockfileVersion\": 1,\n  \"workspaces\": {\"\": {\"name\": \"x\"}},\n  \"packages\": {\n    \"@corp/secret\": [\"@corp/secret@1.0.0\", \"\", {}, \"sha512-AAAA\"],\n    \"open\": [\"open@1.0.0\", \"\", {}, \"sha512-AAAA\"],\n  }\n}\n";

#[test]
fn settings_decide_where_no_location_is_said() {
    let lock = npm_lock(&json!({
        "node_modules/open": {"version": "1.0.0"},
        "node_modules/@corp/secret": {"version": "1.0.0"},
        "node_modules/alias": {"name": "@corp/other", "version": "1.0.0"},
        "node_modules/@corp/placed": {"version": "1.0.0", "resolved": tarball("@corp/placed", "1.0.0")},
    }));
    let file = ("deep/app/package-lock.json", lock.as_str());
    let corp = "; ours\n@corp:registry = \"https://npm.corp.example/\"\n//npm.corp.example/:_authToken=x\n";
    let all = ["@corp/other 1.0.0", "@corp/placed 1.0.0", "@corp/secret 1.0.0", "open 1.0.0"];
    let without_corp = ["@corp/placed 1.0.0", "open 1.0.0"];
    assert_eq!(asked(file, &[]).0, all);
    let user = "../home/.npmrc";
    let global = "../prefix/etc/npmrc";
    for name in ["deep/app/.npmrc", "deep/.npmrc", ".npmrc", "../.npmrc", user, global] {
        assert_eq!(asked(file, &[(name, corp)]).0, without_corp, "{name}");
    }
    // Files of other package managers are not read.
    let of_others = ["../home/.config/pnpm/rc", "../prefix/etc/yarnrc"];
    for name in ["deep/app/bunfig.toml.bak", "deep/app/.yarnrc.yml"].into_iter().chain(of_others) {
        assert_eq!(asked(file, &[(name, corp)]).0, all, "{name}");
    }
    // The deployment's registry, named or by default, is not another registry.
    let own = "@corp:registry=https://registry.example\nregistry=https://mirror.example/\n";
    let expected = ["@corp/other 1.0.0", "@corp/placed 1.0.0", "@corp/secret 1.0.0"];
    assert_eq!(asked(file, &[("deep/app/.npmrc", own)]).0, expected);
    // The file beside the lockfile takes precedence, and then the user's. npm does not read the files between these.
    let near = "@corp:registry=https://registry.example/\n";
    assert_eq!(asked(file, &[(".npmrc", corp), ("deep/app/.npmrc", near)]).0, all);
    for above in [".npmrc", "../.npmrc"] {
        assert_eq!(asked(file, &[(above, near), (user, corp)]).0, without_corp, "{above}");
    }
    // Editors may write a byte order mark.
    assert_eq!(asked(file, &[(user, &format!("\u{feff}{}", &corp[7..]))]).0, without_corp);
    assert_eq!(asked(file, &[(global, corp), (user, near)]).0, all);
    assert_eq!(asked(file, &[(global, near), (user, corp)]).0, without_corp);
    // The user's file may name the global one, which is the only one then.
    for (line, named) in [
        ("prefix=~/npm\n", "../home/npm/etc/npmrc"),
        ("globalconfig=${HOME}/npmrc\n", "../home/npmrc"),
    ] {
        assert_eq!(asked(file, &[(user, line), (named, corp)]).0, without_corp, "{line}");
        assert_eq!(asked(file, &[(user, line), (global, corp)]).0, all, "{line}");
    }
    // An unset variable names no known registry.
    let unset = "@corp:registry=${CORP_REGISTRY}\n";
    assert_eq!(asked(file, &[(".npmrc", unset)]).0, without_corp);
}

#[test]
fn the_environment_counts_too() {
    let lock = npm_lock(&json!({
        "node_modules/open": {"version": "1.0.0"},
        "node_modules/@corp/secret": {"version": "1.0.0"},
    }));
    for (variable, value, expected) in [
        ("npm_config_registry", "https://mirror.example/", vec![]),
        ("NPM_CONFIG_REGISTRY", "https://mirror.example/", vec![]),
        (
            "NPM_CONFIG_REGISTRY",
            "https://registry.example/",
            vec!["@corp/secret 1.0.0", "open 1.0.0"],
        ),
        ("npm_config_@corp:registry", "https://npm.corp.example/", vec!["open 1.0.0"]),
        (
            "YARN_NPM_REGISTRY_SERVER",
            "https://mirror.example",
            vec!["@corp/secret 1.0.0", "open 1.0.0"],
        ),
        ("npm_config_globalconfig", "../other/etc/npmrc", vec!["open 1.0.0"]),
        ("npm_config_prefix", "../other", vec!["open 1.0.0"]),
        ("PREFIX", "../other", vec!["open 1.0.0"]),
    ] {
        let service = service();
        let global = ("../other/etc/npmrc", "@corp:registry=https://npm.corp.example/\n");
        let folder = Folder::new(&[("package-lock.json", &lock), global]);
        folder.command(&service.url(), &[]).env(variable, value).output().unwrap();
        assert_eq!(service.asked(), expected, "{variable}={value}");
    }
    // Yarn 2+ does not read the variable of Yarn 1.
    let service = service();
    let folder = Folder::new(&[("yarn.lock", BERRY)]);
    let mut command = folder.command(&service.url(), &[]);
    command.env("YARN_REGISTRY", "https://mirror.example/").output().unwrap();
    assert_eq!(service.asked(), ["@corp/secret 1.0.0", "open 1.0.0"]);
}

#[test]
fn each_package_manager_has_its_own_settings() {
    let npmrc = (".npmrc", "@corp:registry=https://npm.corp.example/\n");
    for (file, settings) in [
        (("pnpm-lock.yaml", PNPM), npmrc),
        (
            ("pnpm-lock.yaml", PNPM),
            ("pnpm-workspace.yaml", "registries:\n  '@corp': https://npm.corp.example/\n"),
        ),
        (("yarn.lock", YARN), npmrc),
        (("yarn.lock", YARN), (".yarnrc", "\"@corp:registry\" \"https://npm.corp.example\"\n")),
        (
            ("yarn.lock", BERRY),
            (
                ".yarnrc.yml",
                "npmScopes:\n  corp:\n    npmRegistryServer: \"https://npm.corp.example\"\n",
            ),
        ),
        (
            ("bun.lock", BUN),
            (
                "bunfig.toml",
                "[install.scopes]\ncorp = { url = \"https://npm.corp.example\", token = \"$T\" }\n",
            ),
        ),
        (
            ("bun.lock", BUN),
            ("bunfig.toml", "[install.scopes]\n\"@corp\" = \"https://npm.corp.example\"\n"),
        ),
        (
            ("bun.lock", BUN),
            ("../home/.bunfig.toml", "[install.scopes]\ncorp = \"https://npm.corp.example\"\n"),
        ),
        (("bun.lock", BUN), npmrc),
    ] {
        assert_eq!(asked(file, &[settings]).0, ["open 1.0.0"], "{} {}", file.0, settings.0);
        assert_eq!(asked(file, &[]).0, ["@corp/secret 1.0.0", "open 1.0.0"], "{}", file.0);
    }
    let default = [
        (("yarn.lock", YARN), (".yarnrc", "registry \"https://mirror.example\"\n")),
        (("yarn.lock", BERRY), (".yarnrc.yml", "npmRegistryServer: https://mirror.example\n")),
        (("bun.lock", BUN), ("bunfig.toml", "[install]\nregistry = \"https://mirror.example\"\n")),
    ];
    for (file, settings) in default {
        assert_eq!(asked(file, &[settings]).0, [""; 0], "{} {}", file.0, settings.0);
    }
}

/// As npm reads `.npmrc`: a carriage return ends a line, and a section begins with a line that is wholly `[…]`.
#[test]
fn a_section_of_npmrc_hides_no_registry_before_it() {
    let lock = npm_lock(&json!({
        "node_modules/open": {"version": "1.0.0"},
        "node_modules/@corp/secret": {"version": "1.0.0"},
    }));
    let corp = "@corp:registry=https://npm.corp.example/";
    let all = &["@corp/secret 1.0.0", "open 1.0.0"][..];
    for (before, expected) in [
        ("[x] ; note\n", &all[1..]),
        ("[x\n", &all[1..]),
        ("[x]]\n", &all[1..]),
        (" [x]\n", &all[1..]),
        ("x=1\r", &all[1..]),
        ("; note\r", &all[1..]),
        ("[x]\n", all),
        ("[] \n", all),
        ("x=1\r[x]\r", all),
    ] {
        let npmrc = format!("{before}{corp}\n");
        let found = asked(("package-lock.json", &lock), &[(".npmrc", &npmrc)]).0;
        assert_eq!(found, expected, "{before:?}");
    }
    let yarnrc = "x 1\r\"@corp:registry\" \"https://npm.corp.example\"\n";
    assert_eq!(asked(("yarn.lock", YARN), &[(".yarnrc", yarnrc)]).0, ["open 1.0.0"]);
}

const OWN: &str = "https://registry.example/";

/// For each package manager, a setting of this deployment's registry that would be read after one of another registry.
#[test]
fn no_setting_hides_one_that_counts_before_it() {
    let ini = "@corp:registry=https://npm.corp.example/\n";
    let yarnrc = "\"@corp:registry\" \"https://npm.corp.example\"\n";
    let yaml = "registries:\n  '@corp': https://npm.corp.example/\n";
    let bunfig = "[install.scopes]\ncorp = \"https://npm.corp.example\"\n";
    let yarnrc_yml = "npmScopes: {corp: {npmRegistryServer: 'https://npm.corp.example'}}\n";
    let own_ini = format!("@corp:registry={OWN}\n");
    let own_yaml = format!("registries: {{{OWN}: {{scopes: ['@corp']}}}}\n");
    let own_yml = format!("npmScopes: {{corp: {{npmRegistryServer: '{OWN}'}}}}\n");
    for (file, hiding, hidden) in [
        // pnpm 11 and later read the global configuration before a project's `.npmrc`, and of a workspace the root's.
        (("app/pnpm-lock.yaml", PNPM), "app/.npmrc", ("../home/.config/pnpm/config.yaml", yaml)),
        (("app/pnpm-lock.yaml", PNPM), "app/.npmrc", ("pnpm-workspace.yaml", yaml)),
        (("app/pnpm-lock.yaml", PNPM), ".npmrc", ("../home/.npmrc", ini)),
        // pnpm 10 skips `registries` with addresses as keys.
        (("app/pnpm-lock.yaml", PNPM), "app/pnpm-workspace.yaml", ("app/.npmrc", ini)),
        (("app/yarn.lock", YARN), "app/.npmrc", (".yarnrc", yarnrc)),
        (("app/yarn.lock", YARN), ".npmrc", ("../home/.npmrc", ini)),
        (("app/yarn.lock", BERRY), ".yarnrc.yml", ("../.yarnrc.yml", yarnrc_yml)),
        (("app/bun.lock", BUN), "app/.npmrc", ("../home/.bunfig.toml", bunfig)),
        (("app/bun.lock", BUN), ".npmrc", ("../home/.npmrc", ini)),
    ] {
        let own = match hiding.rsplit('.').next() {
            Some("yml") => &own_yml,
            Some("yaml") => &own_yaml,
            _ => &own_ini,
        };
        let settings = [(hiding, &**own), hidden];
        assert_eq!(asked(file, &settings).0, ["open 1.0.0"], "{} {hiding}", file.0);
    }
    let root =
        [("pnpm-workspace.yaml", "packages: [app]\n"), (".npmrc", ini), ("app/.npmrc", &*own_ini)];
    assert_eq!(asked(("app/pnpm-lock.yaml", PNPM), &root).0, ["open 1.0.0"]);
}

#[test]
fn pnpm_registries_are_read_by_address_and_by_scope() {
    let all = ["@corp/secret 1.0.0", "open 1.0.0"];
    for (settings, expected) in [
        ("registries: {https://npm.corp.example/: {scopes: ['@corp']}}\n", &all[1..]),
        ("registries:\n  https://npm.corp.example/:\n    scopes: ['@other', '@']\n", &[]),
        ("registries: {default: https://npm.corp.example/}\n", &[]),
        ("registries: {https://npm.corp.example/: {serverType: npm, scopes: }}\n", &all),
        ("registries:\n", &all),
        (
            "x: &x 1\ny: *x\nregistries: {https://npm.corp.example/: {scopes: ['@corp']}}\n",
            &all[1..],
        ),
    ] {
        for name in ["pnpm-workspace.yaml", "../home/.config/pnpm/config.yaml"] {
            assert_eq!(
                asked(("pnpm-lock.yaml", PNPM), &[(name, settings)]).0,
                expected,
                "{settings}"
            );
        }
    }
    let auth = "_auth: {https://npm.corp.example/: {'@corp': {authToken: x}}}\n";
    let settings = [("../home/.config/pnpm/config.yaml", auth)];
    assert_eq!(asked(("pnpm-lock.yaml", PNPM), &settings).0, ["open 1.0.0"]);
    for settings in [
        "registries: {https://npm.corp.example/: '@corp'}\n",
        "registries: {https://npm.corp.example/: {scopes: '@corp'}}\n",
        "registries: {https://npm.corp.example/: {scopes: [[]]}}\n",
        "registries: {'@corp': [https://npm.corp.example/]}\n",
        "registries: [https://npm.corp.example/]\n",
        "registries: https://npm.corp.example/\n",
        "x: &x ['@corp']\nregistries: {https://npm.corp.example/: {scopes: *x}}\n",
        "x: &x {registry: https://npm.corp.example/}\n<<: *x\n",
    ] {
        let service = service();
        let folder = Folder::new(&[("pnpm-lock.yaml", PNPM), ("pnpm-workspace.yaml", settings)]);
        let run = folder.run(&service.url(), &[]);
        assert_eq!((run.code, service.asked().len()), (2, 0), "{settings} {run:?}");
    }
}

/// Each variable or setting names a file with another registry for all packages.
#[test]
fn other_settings_files_can_be_named() {
    let other = ("other/npmrc", "registry=https://mirror.example/\n");
    let rc = ("other.yml", "npmRegistryServer: https://mirror.example/\n");
    for (file, variable, value) in [
        (("pnpm-lock.yaml", PNPM), "PNPM_CONFIG_NPMRC_AUTH_FILE", "other/npmrc"),
        (("pnpm-lock.yaml", PNPM), "pnpm_config_userconfig", "other/npmrc"),
        (("pnpm-lock.yaml", PNPM), "npm_config_userconfig", "other/npmrc"),
        (("bun.lock", BUN), "npm_config_userconfig", "other/npmrc"),
        (("yarn.lock", YARN), "npm_config_userconfig", "other/npmrc"),
        (("yarn.lock", BERRY), "YARN_RC_FILENAME", "other.yml"),
    ] {
        let service = service();
        let folder = Folder::new(&[
            file,
            other,
            rc,
            ("../home/.npmrc", "registry=https://registry.example/\n"),
        ]);
        let output = folder.command(&service.url(), &[]).env(variable, value).output().unwrap();
        assert_eq!((output.status.code(), service.asked().len()), (Some(3), 0), "{variable}");
    }
    // Yarn's file in the home folder keeps its name.
    let service = service();
    let home = ("../home/.yarnrc.yml", rc.1);
    let folder = Folder::new(&[("yarn.lock", BERRY), home]);
    let mut command = folder.command(&service.url(), &[]);
    command.env("YARN_RC_FILENAME", "other.yml").output().unwrap();
    assert_eq!(service.asked(), [""; 0]);
    let yaml = ("../home/.config/pnpm/config.yaml", "npmrcAuthFile: other/npmrc\n");
    assert_eq!(asked(("pnpm-lock.yaml", PNPM), &[other, yaml]).0, [""; 0]);
}

#[test]
fn variables_of_pnpm_and_npm_do_not_hide_files() {
    let auth = r#"{"https://npm.corp.example/":{"@corp":{"authToken":"x"}}}"#;
    let corp = "registries: {default: https://npm.corp.example/}\n";
    for (variable, value, settings, expected) in [
        ("npm_config_registry", OWN, corp, 0),
        ("PNPM_CONFIG_REGISTRY", "https://npm.corp.example/", "", 0),
        ("pnpm_config_@corp:registry", "https://npm.corp.example/", "", 1),
        ("pnpm_config__auth", auth, "", 1),
    ] {
        let service = service();
        let folder = Folder::new(&[("pnpm-lock.yaml", PNPM), ("pnpm-workspace.yaml", settings)]);
        folder.command(&service.url(), &[]).env(variable, value).output().unwrap();
        assert_eq!(service.asked().len(), expected, "{variable}");
    }
}

#[test]
fn global_settings_count_where_no_others_do() {
    let (pnpm, yarn) = (("pnpm-lock.yaml", PNPM), ("yarn.lock", YARN));
    let ini = "@corp:registry=https://npm.corp.example/\n";
    let yaml = "registries:\n  '@corp': https://npm.corp.example/\n";
    for (file, settings) in [
        (pnpm, ("../prefix/etc/npmrc", ini)),
        (pnpm, ("../home/.config/pnpm/rc", ini)),
        (pnpm, ("../home/.config/pnpm/auth.ini", ini)),
        (pnpm, ("../home/.config/pnpm/config.yaml", yaml)),
        (yarn, ("../prefix/etc/npmrc", ini)),
        (yarn, ("../prefix/etc/yarnrc", "\"@corp:registry\" \"https://npm.corp.example\"\n")),
    ] {
        assert_eq!(asked(file, &[settings]).0, ["open 1.0.0"], "{} {}", file.0, settings.0);
    }
    // Which of several global files counts is not known, so none may name another registry.
    let own = ("../prefix/etc/npmrc", "@corp:registry=https://registry.example/\n");
    let other = ("../home/.config/pnpm/rc", ini);
    assert_eq!(asked(pnpm, &[own, other]).0, ["open 1.0.0"]);
    // pnpm's own file of the user counts before npm's.
    let own = ("../home/.npmrc", own.1);
    assert_eq!(asked(pnpm, &[own, other]).0, ["@corp/secret 1.0.0", "open 1.0.0"]);
    let other = ("../home/.config/pnpm/auth.ini", ini);
    assert_eq!(asked(pnpm, &[own, other]).0, ["open 1.0.0"]);
}

#[test]
fn broken_settings_ask_about_nothing() {
    let lock = npm_lock(&json!({"node_modules/a": {"version": "1.0.0"}}));
    let berry = "__metadata:\n  version: 8\n\n\"a@npm:1\":\n  version: 1.0.0\n  resolution: \"a@npm:1.0.0\"\n";
    let bun = "{\"lockfileVersion\": 1, \"workspaces\": {}, \"packages\": {\"a\": [\"a@1.0.0\", \"\", {}, \"\"]}}";
    let pnpm =
        "lockfileVersion: '9.0'\npackages:\n  a@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n";
    for (file, settings) in [
        (("yarn.lock", berry), (".yarnrc.yml", "npmScopes: {corp: [\n")),
        (("bun.lock", bun), ("bunfig.toml", "[install\n")),
        (("pnpm-lock.yaml", pnpm), ("../home/.config/pnpm/config.yaml", "registries: [\n")),
        (
            ("pnpm-lock.yaml", pnpm),
            ("pnpm-workspace.yaml", "<<: {registries: {default: 'https://npm.corp.example/'}}\n"),
        ),
        (("package-lock.json", &*lock), (".npmrc", "\u{0}")),
    ] {
        let service = service();
        let run = Folder::new(&[file, settings]).run(&service.url(), &[file.0]);
        match settings.0 {
            ".npmrc" => assert_eq!(run.code, 0, "{run:?}"),
            _ => assert_eq!((run.code, service.asked().len()), (2, 0), "{run:?}"),
        }
    }
}
