//! The settings files of each package manager, and their environment variables.

use std::path::{Path, PathBuf};

use super::formats::{Reader, SettingsError};
use super::{Effect, Environment, Manager, Source, Sources};
use crate::tree::{self, SyntaxError};

/// The settings that a package manager may read in the folder of a lockfile. The folder's own file and the user's replace
/// what is behind them. All others only add: which of them count differs between versions and calls.
pub(super) fn sources(
    manager: Manager,
    folder: &Path,
    environment: &Environment,
) -> Result<Sources, SettingsError> {
    let above = folder.ancestors().skip(1).map(Path::to_owned).collect();
    let home = home(environment);
    let reader = Reader(environment);
    let folder = folder.to_owned();
    let mut files = Files { environment, reader, home, folder, above, sources: Sources::default() };
    files.variables(manager)?;
    match manager {
        Manager::Npm => {
            files.project(".npmrc", Effect::Replaces, Reader::npmrc)?;
            files.npmrc_of_user()?;
            files.add(&files.npm_globals(true), Reader::npmrc)?;
        }
        Manager::Pnpm => files.pnpm()?,
        Manager::Yarn => files.yarn()?,
        Manager::Berry => {
            let name = environment.get("YARN_RC_FILENAME").unwrap_or(".yarnrc.yml");
            files.project(name, Effect::Replaces, Reader::yarnrc_yml)?;
            // The variable does not name the user's file.
            files.user(".yarnrc.yml", Reader::yarnrc_yml)?;
        }
        Manager::Bun => files.bun()?,
    }
    Ok(files.sources)
}

type Read<'e> = fn(&Reader<'e>, &Path) -> Result<Source, SettingsError>;

struct Files<'e> {
    environment: &'e Environment,
    reader: Reader<'e>,
    home: Option<PathBuf>,
    /// The folder of the lockfile.
    folder: PathBuf,
    /// The folders above it, the nearest first.
    above: Vec<PathBuf>,
    sources: Sources,
}

impl<'e> Files<'e> {
    fn push(&mut self, effect: Effect, path: &Path, read: Read<'e>) -> Result<(), SettingsError> {
        self.sources.0.push((effect, read(&self.reader, path)?));
        Ok(())
    }

    fn add(&mut self, paths: &[PathBuf], read: Read<'e>) -> Result<(), SettingsError> {
        paths.iter().try_for_each(|path| self.push(Effect::Adds, path, read))
    }

    /// The file beside the lockfile, and those above.
    fn project(&mut self, name: &str, own: Effect, read: Read<'e>) -> Result<(), SettingsError> {
        self.push(own, &self.folder.join(name), read)?;
        let above: Vec<_> = self.above.iter().map(|folder| folder.join(name)).collect();
        self.add(&above, read)
    }

    /// The file in the home folder.
    fn user(&mut self, name: &str, read: Read<'e>) -> Result<(), SettingsError> {
        match &self.home {
            Some(home) => self.push(Effect::Replaces, &home.join(name), read),
            None => Ok(()),
        }
    }

    /// The user's `.npmrc`, and the file that a setting names in its place.
    fn npmrc_of_user(&mut self) -> Result<(), SettingsError> {
        let named = self.paths(&["userconfig", "npmrc_auth_file"]).0;
        self.add(&named, Reader::npmrc)?;
        match &self.home {
            Some(home) if !named.is_empty() => self.add(&[home.join(".npmrc")], Reader::npmrc),
            _ => self.user(".npmrc", Reader::npmrc),
        }
    }

    /// pnpm 10 and earlier read other files than pnpm 11 and later, and in another order. In pnpm-workspace.yaml they do not
    /// know `registries` with addresses as keys.
    fn pnpm(&mut self) -> Result<(), SettingsError> {
        let workspace = "pnpm-workspace.yaml";
        let of_pnpm = pnpm_folders(self.environment, self.home.as_deref());
        let named = |name: &str| of_pnpm.iter().map(|folder| folder.join(name)).collect::<Vec<_>>();
        self.project(workspace, Effect::Adds, Reader::pnpm_workspace)?;
        self.add(&named("config.yaml"), Reader::pnpm_config)?;
        // In a workspace, pnpm 11 and later read the `.npmrc` of its root alone.
        let is_root = self.folder.join(workspace).exists()
            || !self.above.iter().any(|folder| folder.join(workspace).exists());
        let own = if is_root { Effect::Replaces } else { Effect::Adds };
        self.project(".npmrc", own, Reader::npmrc)?;
        self.add(&named("auth.ini"), Reader::npmrc)?;
        self.npmrc_of_user()?;
        self.add(&named("rc"), Reader::npmrc)?;
        self.add(&self.npm_globals(true), Reader::npmrc)
    }

    /// A `.yarnrc` counts before any `.npmrc`.
    fn yarn(&mut self) -> Result<(), SettingsError> {
        self.project(".yarnrc", Effect::Replaces, Reader::yarnrc)?;
        self.user(".yarnrc", Reader::yarnrc)?;
        let globals = self.npm_globals(false);
        let of_yarn: Vec<_> = globals.iter().map(|file| file.with_file_name("yarnrc")).collect();
        self.add(&of_yarn, Reader::yarnrc)?;
        self.project(".npmrc", Effect::Replaces, Reader::npmrc)?;
        self.npmrc_of_user()?;
        self.add(&globals, Reader::npmrc)
    }

    /// A `bunfig.toml` counts before any `.npmrc`.
    fn bun(&mut self) -> Result<(), SettingsError> {
        self.project("bunfig.toml", Effect::Replaces, Reader::bunfig)?;
        self.project(".bunfig.toml", Effect::Adds, Reader::bunfig)?;
        let user = self.environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
        if let Some(folder) = user.or_else(|| self.home.clone()) {
            self.push(Effect::Replaces, &folder.join(".bunfig.toml"), Reader::bunfig)?;
        }
        self.project(".npmrc", Effect::Replaces, Reader::npmrc)?;
        self.npmrc_of_user()
    }

    /// The paths that settings name, and whether no others count.
    fn paths(&self, keys: &[&str]) -> (Vec<PathBuf>, bool) {
        let path = |text: &str| match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(text),
        };
        let found: Vec<_> = keys.iter().map(|key| self.sources.values(key)).collect();
        let is_all = found.iter().any(|(_, is_all)| *is_all);
        (found.iter().flat_map(|(values, _)| values).map(|text| path(text)).collect(), is_all)
    }

    /// npm's global settings file, which pnpm and Yarn 1 read too. Without a setting, it belongs to the installation of
    /// Node.js that runs the package manager. Which one that is is not known, so the result has the files of all that
    /// may be. Yarn 1 does not take it from settings.
    fn npm_globals(&self, is_set: bool) -> Vec<PathBuf> {
        let paths = |key: &str| match is_set {
            true => self.paths(&[key]),
            false => (Vec::new(), false),
        };
        let (mut files, is_file) = paths("globalconfig");
        if is_file {
            return files;
        }
        let (mut prefixes, is_prefix) = paths("prefix");
        match self.environment.get("PREFIX") {
            _ if is_prefix => {}
            Some(prefix) => prefixes.push(self.folder.join(prefix)),
            None => prefixes.extend(installations(self.environment)),
        }
        files.extend(prefixes.iter().map(|prefix| prefix.join("etc/npmrc")));
        files
    }

    /// The environment variables, in any case, as npm and Yarn read them.
    fn variables(&mut self, manager: Manager) -> Result<(), SettingsError> {
        let prefixes: &[&str] = match manager {
            Manager::Npm => &["npm_config_"],
            Manager::Pnpm => &["pnpm_config_", "npm_config_"],
            Manager::Yarn => &["yarn_", "npm_config_"],
            Manager::Berry => &["yarn_"],
            Manager::Bun => &["bun_config_", "npm_config_"],
        };
        for (name, value) in &self.environment.0 {
            let name = name.to_ascii_lowercase();
            let Some(key) = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
                continue;
            };
            let mut source = Source::default();
            match (manager, key) {
                (Manager::Berry, "npm_registry_server") => source.set("registry", value.clone()),
                (Manager::Berry, "lockfile_filename") => {
                    source.set("lockfileFilename", value.clone())
                }
                // No other variable of Yarn 2+ names a registry; `YARN_REGISTRY` is one of Yarn 1.
                (Manager::Berry, _) => {}
                // When pnpm cannot read this variable, it installs nothing.
                (Manager::Pnpm, "_auth") => match tree::json(value) {
                    Ok(all) => self.reader.routes(&all, &mut source).unwrap_or_default(),
                    Err(error @ SyntaxError::DuplicateKey(_)) => {
                        return Err(SettingsError::Variable(name, error));
                    }
                    Err(_) => {}
                },
                _ => {
                    source.set(key, value.trim().to_owned());
                    source.set(&key.replace('_', "-"), value.trim().to_owned());
                }
            }
            self.sources.0.push((Effect::Adds, source));
        }
        Ok(())
    }
}

/// The home folder. Without a variable it is the user's in the system, as for Node.js.
fn home(environment: &Environment) -> Option<PathBuf> {
    let named = environment.get("HOME").or_else(|| environment.get("USERPROFILE"));
    named.map(PathBuf::from).or_else(std::env::home_dir)
}

/// The folders in which pnpm's own settings may be: on any system, on Linux, on macOS, on Windows.
fn pnpm_folders(environment: &Environment, home: Option<&Path>) -> Vec<PathBuf> {
    if let Some(folder) = environment.get("XDG_CONFIG_HOME") {
        return vec![Path::new(folder).join("pnpm")];
    }
    let folders = [".config/pnpm", "Library/Preferences/pnpm", "AppData/Local/pnpm/config"];
    home.into_iter().flat_map(|home| folders.map(|folder| home.join(folder))).collect()
}

/// The folders in which Node.js may be installed: those of the `PATH`, and the usual ones.
fn installations(environment: &Environment) -> Vec<PathBuf> {
    let folders = std::env::split_paths(environment.get("PATH").unwrap_or_default());
    let nodes = folders.map(|folder| folder.join("node")).filter(|node| node.exists());
    // A version manager's folder may hold links.
    let nodes = nodes.flat_map(|node| [node.canonicalize().unwrap_or_default(), node]);
    let of_nodes = nodes.filter_map(|node| Some(node.parent()?.parent()?.to_owned()));
    of_nodes.chain(["/usr/local", "/usr", "/"].map(Into::into)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Environment(variables.iter().map(owned).collect())
    }

    /// The paths alone: the files of the machine must not decide a test.
    #[test]
    fn global_files_are_named_or_belong_to_an_installation() {
        let globals = |is_set, prefix: Option<&str>, variables: &[(&str, &str)]| {
            let environment = environment(variables);
            let mut source = Source::default();
            source.set("prefix", prefix.unwrap_or_default().to_owned());
            let files = Files {
                environment: &environment,
                reader: Reader(&environment),
                home: Some("/users/u".into()),
                folder: "/f".into(),
                above: Vec::new(),
                sources: Sources(vec![(Effect::Replaces, source)]),
            };
            files.npm_globals(is_set)
        };
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("node"), "").unwrap();
        let path = format!("/nonexistent/bin:{}", bin.display());
        let of_node = folder.path().join("etc/npmrc");
        let system = ["/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc"].map(PathBuf::from);
        // Yarn 1 takes the prefix from the variable alone.
        for (is_set, by_setting) in [(true, "/users/u/npm/etc/npmrc"), (false, "/p/etc/npmrc")] {
            assert_eq!(globals(is_set, None, &[]), system);
            let found = globals(is_set, None, &[("PATH", &path)]);
            assert!(found.contains(&of_node) && found.ends_with(&system), "{found:?}");
            let variables = [("PATH", &*path), ("PREFIX", "/p")];
            assert_eq!(globals(is_set, None, &variables), [Path::new("/p/etc/npmrc")]);
            assert_eq!(globals(is_set, Some("~/npm"), &variables), [Path::new(by_setting)]);
        }
    }

    #[test]
    fn pnpm_has_a_folder_for_settings() {
        let home = Some(Path::new("/users/u"));
        let folders = pnpm_folders(&environment(&[]), home);
        assert!(folders.contains(&"/users/u/.config/pnpm".into()), "{folders:?}");
        let variables = environment(&[("XDG_CONFIG_HOME", "/x")]);
        assert_eq!(pnpm_folders(&variables, home), [Path::new("/x/pnpm")]);
    }

    #[test]
    fn without_a_variable_the_home_folder_is_the_systems() {
        assert_eq!(home(&environment(&[("HOME", "/users/u")])), Some("/users/u".into()));
        assert!(home(&environment(&[])).is_some());
    }
}
