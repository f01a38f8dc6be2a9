//! What `eas` says of malformed specs: where, what was expected, and what may have been meant.

use crate::harness::{Folder, TINY};

/// How a spec is spoilt.
enum Spoilt {
    /// A part of [`TINY`] is replaced.
    Part(&'static str, &'static str),
    /// Something is laid over [`TINY`] on the command line.
    Set(&'static str),
    /// The file is another altogether.
    File(&'static [u8]),
    /// There is a folder in its place.
    Folder,
    /// There is nothing.
    Missing,
}

use Spoilt::{File, Folder as Directory, Missing, Part, Set};

/// The space of [`TINY`], up to the keys that other spaces have, too.
const SPACE: &str = "[space.convnet]\n\
    start = [\"conv 4\", \"pool\", \"conv 6\", \"global_pool\"]\nfilters = [4, 6, 8, 12]\nunits = [8]";

const CASES: &[(&str, Spoilt)] = &[
    ("a misspelt top key", Part("[[stage]]", "[[stages]]")),
    ("a misspelt transform", Part("[transform.widen]", "[transform.wide]")),
    ("a misspelt space", Part("[space.convnet]", "[space.convent]")),
    ("a misspelt data set", Part("[data.synthetic]", "[data.syntetic]")),
    ("a misspelt controller", Part("[controller.random]", "[controller.randm]")),
    ("a data set that is linked nowhere", Part("[data.synthetic]", "[data.imagenet]")),
    ("a misspelt option of a data set", Part("validation = 16", "validatoin = 16")),
    ("a misspelt option of a space", Part("kernels = [1, 3]\nlimits", "kernel = [1, 3]\nlimits")),
    ("a misspelt option of a transform", Part("[transform.widen]", "[transform.widen]\nnoize = 0")),
    ("a misspelt limit", Part("depth = 6", "deph = 6")),
    ("a misspelt key of a recipe", Part("epochs = 1\nbatch = 16\n\n[child]", "epoch = 1\n[child]")),
    ("a misspelt recipe", Part("recipe = \"quick\"", "recipe = \"quik\"")),
    ("a misspelt key of a stage", Part("batches = 2", "batchs = 2")),
    ("a misspelt key of a promotion", Set("stage.0.promote.seed=1")),
    ("a promotion of nobody", Set("stage.0.promote.candidates=0")),
    ("rungs that don't rise", Set("stage.0.halving.rungs=[2, 1]")),
    ("a rung at the end", Set("stage.0.halving.rungs=[1]")),
    ("a halving that keeps all", Set("stage.0.halving.eta=1")),
    ("rounds without an end", Set("start.rounds=1000000")),
    ("a gain beyond all accuracy", Set("start.gain=1.5")),
    ("a misspelt key of the start", Set("start.round=1")),
    ("a misspelt key of the final", Part("[final]", "[final]\ncompar = true")),
    ("a misspelt choice", Part("[final]", "[final]\nweights = \"inherit\"")),
    ("a misspelt parent", Part("[[stage]]", "[[stage]]\nparent = \"bests\"")),
    ("a misspelt layer", Part("\"pool\"", "\"pol\"")),
    ("a layer without its width", Part("\"conv 6\"", "\"conv\"")),
    ("an even kernel", Part("\"conv 6\"", "\"conv 6 2\"")),
    ("a text for a number", Part("epochs = 1", "epochs = \"1\"")),
    ("a number for a list", Part("filters = [4, 6, 8, 12]", "filters = 4")),
    ("a number for a table", Part("[controller.random]", "[controller]\nrandom = 1")),
    ("a number for all tables of a kind", Set("controller=1")),
    ("widths that don't rise", Part("[4, 6, 8, 12]", "[4, 8, 6]")),
    ("no image", Part("images = 80", "images = 0")),
    ("a batch of one image", Part("batch = 16", "batch = 1")),
    ("no epoch", Part("epochs = 1", "epochs = 0")),
    ("more epochs than a number holds", Set("child.epochs=9223372036854775807")),
    ("a learning rate of 0", Part("[final]", "[final]\nlearning_rate = 0.0")),
    ("a stage without networks", Part("networks = 2", "networks = 0")),
    ("a final without networks", Part("[final]", "[final]\nnetworks = 0")),
    ("more finals than a number holds", Set("final.networks=9223372036854775807")),
    ("a list of no stages", Set("stage=[]")),
    ("a stage that is no table", Set("stage.0=1")),
    ("a probability above 1", Part("[controller.random]", "[controller.random]\nprobability = 2")),
    ("a negative seed", Part("seed = 3", "seed = -3")),
    ("a huge seed", Part("seed = 3", "seed = 99999999999999999999")),
    ("a name with a slash", Part("\"tiny\"", "\"../tiny\"")),
    ("a bad suffix of a quantity", Part("\"10k\"", "\"10X\"")),
    ("a negative quantity", Part("\"1M\"", "-1")),
    ("a misspelt key of the store", Set("store.keep=1")),
    ("a size of the store that is none", Set("store.size=much")),
    ("a negative number of the best", Set("store.keep_best=-1")),
    ("a negative lag", Set("stage.0.lag=-1")),
    (
        "batches ahead of their parents",
        Part("[[stage]]", "[[stage]]\nlag = 2\nparent = \"frontier\""),
    ),
    ("a device that is none", Set("run.devices=gpu")),
    ("a GPU twice", Set("run.devices=cuda:0,1,0")),
    ("a bad duration", Part("[final]", "[run]\ndeadline = \"soon\"\n[final]")),
    ("two spaces", Part("[transform.widen]", "[space.network]\nstart = \"a\"\n[transform.widen]")),
    ("a space without its name", Part("[space.convnet]", "[space]")),
    ("a stage without actions", Part("[\"widen x1\", \"deepen x1\"]", "[]")),
    ("an action without its transform", Part("\"widen x1\"", "\"replicate x1\"")),
    ("a misspelt action", Part("\"widen x1\"", "\"widne x1\"")),
    ("an action zero times", Part("\"widen x1\"", "\"widen x0\"")),
    ("an action that is none", Part("\"widen x1\"", "\"widen one time\"")),
    ("no schema", Part("schema = 1\n", "")),
    ("an older schema", Part("schema = 1", "schema = 0")),
    ("a newer schema", Part("schema = 1", "schema = 2")),
    ("a schema that is no number", Part("schema = 1", "schema = \"one\"")),
    ("a key twice", Part("seed = 3", "seed = 3\nseed = 4")),
    ("a bracket that is never closed", Part("[data.synthetic]", "[data.synthetic")),
    ("a text that is never closed", Part("\"tiny\"", "\"tiny")),
    ("limits below the start network", Part("\"10k\"", "100")),
    (
        "a start network that pools below a pixel",
        Part("\"pool\"", "\"pool\", \"pool\", \"pool\", \"pool\""),
    ),
    ("no validation images", Part("validation = 16", "validation = 0")),
    ("more validation images than there are", Part("validation = 16", "validation = 80")),
    ("more training images than are left", Part("validation = 16", "validation = 16\ntrain = 65")),
    (
        "a crop beyond the image",
        Part("validation = 16", "validation = 16\naugment = { pad_crop = 8 }"),
    ),
    (
        "a data set whose folder isn't known",
        Part("[data.synthetic]\nimages = 80\nheight = 8\nwidth = 8", "[data.cifar10]"),
    ),
    (
        "a data set whose folder is missing",
        Part(
            "[data.synthetic]\nimages = 80\nheight = 8\nwidth = 8",
            "[data.cifar10]\npath = \"nowhere\"",
        ),
    ),
    (
        "a network file that is missing",
        Part(
            "[space.convnet]\nstart = [\"conv 4\", \"pool\", \"conv 6\", \"global_pool\"]",
            "[space.network]\nstart = \"nowhere.toml\"",
        ),
    ),
    (
        "a misspelt preset of residual networks",
        Part(SPACE, "[space.residual]\npreset = \"resnet\""),
    ),
    ("a misspelt option of the residual space", Part(SPACE, "[space.residual]\nstage = []")),
    ("no stage", Part(SPACE, "[space.residual]\nstages = []")),
    (
        "a stage without blocks",
        Part(SPACE, "[space.residual]\nstages = [{ blocks = 0, width = 4 }]"),
    ),
    (
        "a misspelt key of a residual stage",
        Part(SPACE, "[space.residual]\nstages = [{ blocks = 1, widht = 4 }]"),
    ),
    ("a stage without its width", Part(SPACE, "[space.residual]\nstages = [{ blocks = 1 }]")),
    ("a dropout of everything", Part(SPACE, "[space.residual]\ndropout = 1.0")),
    ("a residual start beyond the limits", Part(SPACE, "[space.residual]\npreset = \"small\"")),
    ("a skip to nowhere", Set("transform.skip.reach=0")),
    ("a kernel growth with options", Set("transform.grow_kernel.kernels=[5]")),
    ("a misspelt preset", Part(SPACE, "[space.densenet]\npreset = \"smal\"")),
    ("a misspelt option of dense networks", Part(SPACE, "[space.densenet]\ngrowht = 12")),
    ("a growth rate of 0", Part(SPACE, "[space.densenet]\ngrowth = 0")),
    ("a transition that adds channels", Part(SPACE, "[space.densenet]\ncompression = 1.5")),
    ("a depth that no dense network has", Part(SPACE, "[space.densenet]\ndepth = 39")),
    (
        "a first convolution without channels",
        Part(
            "[transform.widen]",
            "[transform.widen_transition]\nfirst_ratio = 0.0\n[transform.widen]",
        ),
    ),
    ("two things at once", Part("seed = 3", "seed = -3\nnmae = \"tiny\"")),
    ("letters of two bytes", Part("\"pool\"", "\"größe\"")),
    ("--set of an unknown key", Set("child.epoch=2")),
    ("--set of an unknown top key", Set("chidl.epochs=2")),
    ("--set of an entry that isn't there", Set("stage.1.batches=2")),
    ("--set of an entry by a word", Set("stage.first.batches=2")),
    ("--set of a wrong value", Set("child.epochs=two")),
    ("--set without a value", Set("child.epochs")),
    ("--set of a table where a value is", Set("child.epochs.more=1")),
    ("other bytes than text", File(b"schema = 1\nname = \"\xff\xfe\"\n")),
    ("an empty file", File(b"")),
    ("a file of something else", File(b"<html>\n<body>not found</body>\n</html>\n")),
    ("a folder", Directory),
    ("nothing", Missing),
];

#[test]
fn every_malformed_spec_is_refused_with_its_place() {
    let mut golden = String::new();
    let mut accepted = Vec::new();
    for (title, spoilt) in CASES {
        let folder = Folder::with_tiny_spec();
        let mut arguments = vec!["check", "spec.toml", "--no-forecast"];
        match spoilt {
            Part(part, other) => {
                let spec = TINY.replacen(part, other, 1);
                assert_ne!(spec, TINY, "{title}: the spec has no such part");
                folder.write("spec.toml", spec);
            }
            Set(argument) => arguments.extend(["--set", argument]),
            File(content) => folder.write("spec.toml", content),
            Directory | Missing => {
                std::fs::remove_file(folder.path("spec.toml")).unwrap();
                if matches!(spoilt, Directory) {
                    std::fs::create_dir(folder.path("spec.toml")).unwrap();
                }
            }
        }
        let done = folder.eas(arguments);
        if (done.code, done.stdout.as_str()) != (Some(2), "") {
            accepted.push(title);
        }
        golden += &format!("# {title}\n{}\n", done.stderr);
    }
    assert!(accepted.is_empty(), "{accepted:?}\n{golden}");
    insta::assert_snapshot!(golden);
}
