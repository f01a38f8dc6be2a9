//! The real `eas` in a folder of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

pub(crate) use eas_tests::root;

/// A search of seconds: a start network, two batches of two children, a final, and what it is
/// compared with.
pub(crate) const TINY: &str = include_str!("tiny.toml");

/// The `eas` binary.
pub(crate) static EAS: LazyLock<PathBuf> = LazyLock::new(|| eas_tests::eas().unwrap());

/// Runs cargo in the workspace, which must succeed.
pub(crate) fn cargo<'a>(subcommand: &str, arguments: impl IntoIterator<Item = &'a str>) {
    Done::from(eas_tests::cargo(subcommand).unwrap().args(arguments).output().unwrap()).exits(0);
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("eas writes UTF-8");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Done { code: output.status.code(), stdout, stderr }
    }
}

impl Done {
    /// Asserts the exit code; shows all where it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The JSON on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A folder of its own, in which commands run; it goes with the value.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    /// A folder with [`TINY`] as `spec.toml`.
    pub(crate) fn with_tiny_spec() -> Self {
        let folder = Folder::new();
        folder.write("spec.toml", TINY);
        folder
    }

    /// A folder with the run of [`TINY`] in `run`, and the model in `run/best`.
    pub(crate) fn with_tiny_run() -> Self {
        let folder = Folder::with_tiny_spec();
        folder.eas(["search", "spec.toml", "--run", "run"]).exits(0);
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A command of `eas`, to run in the folder; no data set comes from the environment, and the user's
    /// cache is the folder's `cache`.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        self.command_of(&EAS, arguments)
    }

    /// A command of another binary that is an `eas`.
    pub(crate) fn command_of<'a>(
        &self,
        binary: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut command = Command::new(binary);
        command.current_dir(self.0.path()).args(arguments);
        command.env_remove("EAS_DATA").env("XDG_CACHE_HOME", self.path("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `eas` in the folder.
    pub(crate) fn eas<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Done {
        self.command(arguments).output().unwrap().into()
    }
}

/// The folder of CIFAR-10, where `EAS_DATA` names one; else the test says that it is skipped.
pub(crate) fn cifar10(test: &str) -> Option<String> {
    let folder = std::env::var("EAS_DATA").ok();
    if folder.is_none() {
        // Past the capture of tests that pass, which would hide it.
        let text = format!("{test}: skipped, because EAS_DATA names no folder with CIFAR-10\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    folder
}
