//! The command line: the commands with their examples here, their arguments in a file for each
//! subject.

mod data;
mod models;
mod runs;

use clap::{Parser, Subcommand};

pub(crate) use data::{Data, DataCommand, Fetch, Inspect};
pub(crate) use models::{
    Bench, Diff, Drawing, Export, Model, Precision, Predict, Show, Test, TestTimeAugmentation,
    Train, Transform, TrialName,
};
pub(crate) use runs::{
    Budget, Check, Compare, Doctor, Format, Gc, Init, Lineage, List, Resume, Search, SpecArgs,
    Status, Template, Trial, Trials, Verify,
};

/// Efficient architecture search by network transformation.
#[derive(Debug, Parser)]
#[command(name = "eas", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed for a reason outside the input
  2    the command line, a spec or a file is wrong; the message says where
  3    the answer is no: an edit or an export changed the function
  4    a file of a run is damaged
  5    a disk is full
  130  interrupted; what was done is kept
  134  interrupted twice: ended at once";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Search an architecture
    #[command(after_help = "\
Examples:
  eas search                                  the built-in quickstart, some minutes
  eas search my.toml                          a spec of your own (see: eas init)
  eas search my.toml --seed 2 --set child.epochs=10
  eas search my.toml --run runs/second
  eas search my.toml --devices cuda:0,1       on two GPUs (see: eas doctor)
  eas search --data images --budget 30m       no spec: a folder of images by class, or files of a format
  eas search --data images --budget 30m --init > my.toml")]
    Search(Search),
    /// Go on with a run that was stopped, or make a finished one longer
    #[command(after_help = "\
Examples:
  eas resume runs/quickstart
  eas resume runs/quickstart --extend-batches 2
  eas resume runs/quickstart --extend-deadline 2h
  eas resume runs/quickstart --devices cpu    whatever the plan says")]
    Resume(Resume),
    /// Check a spec: what it would do, how large its space is, how long it would take
    #[command(after_help = "\
Examples:
  eas check my.toml
  eas check my.toml --set stage.0.batches=30 --json")]
    Check(Check),
    /// Compare controllers: the same start weights, recipes and budget, several seeds
    #[command(after_help = "\
Examples:
  eas compare my.toml --controllers reinforce,random --seeds 5
  eas compare my.toml --controllers reinforce,random --seeds 3 --budget 20M --out comparison
  eas compare my.toml --controllers reinforce,hill_climb --budget 30m

Each controller and seed is a run of its own in the folder. What is stopped goes on when the same
command is given again.")]
    Compare(Compare),
    /// Look at a data set
    Data(Data),
    /// Write a spec with every key, its default and its meaning
    #[command(after_help = "\
Examples:
  eas init                                    writes eas.toml
  eas init --template c10-plain c10.toml
  eas init --list")]
    Init(Init),
    /// List the linked transforms, spaces, controllers and data sets
    #[command(after_help = "\
Examples:
  eas list
  eas list --json")]
    List(List),
    /// Show a network, a model, a run, or a trial of a run
    #[command(after_help = "\
Examples:
  eas show network.toml
  eas show densenet                           a network of eas bench
  eas show runs/quickstart                    the result, and the best network
  eas show runs/quickstart 7 --json
  eas show runs/quickstart --format svg --out best.svg
  eas show model --format dot | dot -Tpng > model.png

A line of the picture is a block. `2 x` stands before what repeats; `add [...]` and `concat [...]` join
the branches in brackets; a single branch is joined with its own input. Operations that are no such
branches are a `web [...]`. Batch norms, activations and dropout are only counted: --nodes lists every
node.")]
    Show(Show),
    /// Show in which layers two networks differ
    #[command(after_help = "\
Examples:
  eas diff runs/quickstart                    what the search made of its start network
  eas diff runs/quickstart --trial 12         what an episode made of its parent
  eas diff runs/quickstart --trial 3 --trial 12
  eas diff before.toml runs/quickstart/best --json

`~` is a layer that both have, `+` one that only the second has, `-` one that only the first has. Nodes
are known by their ids where one network can have come from the other, else by their operations and
order. The exit code is 0 whether they differ or not.")]
    Diff(Diff),
    /// List the trials of a run
    #[command(after_help = "\
Examples:
  eas trials runs/quickstart
  eas trials runs/quickstart --format csv > trials.csv")]
    Trials(Trials),
    /// Say how far a run has come
    #[command(after_help = "\
Examples:
  eas status runs/quickstart
  eas status runs/quickstart --json")]
    Status(Status),
    /// Show how a run gets on, until nobody works on it
    #[command(after_help = "\
Examples:
  eas watch runs/quickstart
  eas watch runs/quickstart --json            a line of JSON twice a second")]
    Watch(Status),
    /// Show how a network came about
    #[command(after_help = "\
Examples:
  eas lineage runs/quickstart                 of the best network
  eas lineage runs/quickstart 7
  eas lineage runs/quickstart --dot | dot -Tsvg > lineage.svg")]
    Lineage(Lineage),
    /// Check a run: its files, its decisions, its best network
    #[command(after_help = "\
Examples:
  eas verify runs/quickstart
  eas verify runs/quickstart --rebuild --json
  eas verify runs/quickstart --repair         then eas resume trains again what is damaged")]
    Verify(Verify),
    /// Remove the models and momentum that a run doesn't need any more
    #[command(after_help = "\
Examples:
  eas gc runs/quickstart --dry-run            what would go, and why the rest stays
  eas gc runs/quickstart --keep-best 1

What the run may still read stays: it can be resumed and made longer afterwards, with the same results.
A search does the same by itself once its store is larger than store.size.")]
    Gc(Gc),
    /// Edit a model without changing its function
    #[command(after_help = "\
Examples:
  eas transform runs/quickstart --apply 'widen n1 to 32' --out wider
  eas transform model --apply 'deepen n1 with kernel 3' --apply 'widen n1 to 64' --out child

An inserted batch norm is the identity until it is trained: it has seen no images yet. A search takes
its statistics from training images first.")]
    Transform(Transform),
    /// Train a network or go on training a model
    #[command(after_help = "\
Examples:
  eas train network.toml --data fashion_mnist_subset --out trained
  eas train runs/quickstart --data cifar10=DIR --set epochs=5 --out longer
  eas train runs/quickstart --trial start --data cifar10=DIR --out longer
  eas train network.toml --data cifar10=DIR --out trained --device cuda:1")]
    Train(Train),
    /// Test a model on a data set's test images
    #[command(after_help = "\
Examples:
  eas test runs/quickstart --data fashion_mnist_subset
  eas test model --data cifar10=DIR --json
  eas test model --data cifar10=DIR --test-time-augmentation mirror

Where the model is one of a run, the run records that its test images were opened, and when.")]
    Test(Test),
    /// Write a model in forms that other programs read, and prove that they do the same
    #[command(after_help = "\
Examples:
  eas export runs/quickstart --out exported   every form, and a model card
  eas export runs/quickstart --format onnx --fold-batch-norms --out onnx
  eas export runs/quickstart --trial start --format pytorch --out start
  eas export model --python ~/torch/bin/python --out exported

What was written is read again and run, on the images that a model keeps for that and on validation
images of the run where there are some. Its logits must be the model's to 1e-4 of their deviation, and
the predicted classes the same; otherwise nothing is left of it.")]
    Export(Export),
    /// Classify pictures
    #[command(after_help = "\
Examples:
  eas predict runs/quickstart shoe.png
  eas predict exported pictures/ --top 3
  curl -s https://example.org/cat.jpg | eas predict model - --json

Pictures are PNG, JPEG or WebP of any size. They are cut, scaled and normalised as the training
images were. What can't be read is named, and the others are classified all the same; the exit code
is 2 then.")]
    Predict(Predict),
    /// Carry out an attempt at a trial of a run, as executors have it done
    #[command(hide = true)]
    Trial(Trial),
    /// Measure how fast a network trains and runs on this machine
    #[command(after_help = "\
Examples:
  eas bench
  eas bench wide --batch 128 --threads 1
  eas bench runs/quickstart --json            its best network
  eas bench network.toml
  eas bench wide --batch 512 --precision bf16 --device cuda --side-by-side 4

On a GPU, batches are drawn and made as in a training, a window of steps at a time.")]
    Bench(Bench),
    /// Say what this machine has to train on, and what mends what is missing
    #[command(after_help = "\
Examples:
  eas doctor
  eas doctor --json

The exit code is 0 whatever is missing.")]
    Doctor(Doctor),
    /// Print a script that completes eas commands in a shell
    #[command(after_help = "\
Examples:
  eas completions bash > ~/.local/share/bash-completion/completions/eas
  eas completions zsh > \"${fpath[1]}/_eas\"")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}
