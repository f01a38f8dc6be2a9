//! Plugins: names are unique and ordered, wrong names are answered with a suggestion, wrong options
//! with their place.

use eas_ir::{Built, Plugin, Registry, Value, nearest, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

trait Widening: std::fmt::Debug {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Widen {
    #[serde(default = "twice")]
    factor: u32,
}

impl Widening for Widen {}

fn twice() -> u32 {
    2
}

fn build(options: Value<'_>) -> Result<Built<dyn Widening>, toml::de::Error> {
    let widen = parse_options::<Widen>(options)?;
    Ok(Built { options: resolved_options(&widen)?, implementation: Box::new(widen) })
}

static WIDEN: Plugin<dyn Widening> = Plugin::new("widen", "more filters", "factor = 2", build);
static DEEPEN: Plugin<dyn Widening> = Plugin::new("deepen", "more layers", "", build);
static WIDEN_AGAIN: Plugin<dyn Widening> = Plugin::new("widen", "the same name", "", build);
const WIDEN_LINE: u32 = line!() - 3;

#[test]
fn plugins_are_ordered_by_name_whatever_the_link_order() {
    for linked in [[&WIDEN, &DEEPEN], [&DEEPEN, &WIDEN]] {
        let registry = Registry::collect("transform", linked).unwrap();
        let names: Vec<&str> = registry.iter().map(|plugin| plugin.name).collect();
        assert_eq!(names, ["deepen", "widen"]);
        assert_eq!(registry.kind(), "transform");
        assert_eq!(registry.get("widen").unwrap().summary, "more filters");
    }
}

#[test]
fn two_plugins_of_one_name_are_refused_with_both_places() {
    for linked in [[&WIDEN, &DEEPEN, &WIDEN_AGAIN], [&WIDEN_AGAIN, &WIDEN, &DEEPEN]] {
        let error = Registry::collect("transform", linked).unwrap_err().to_string();
        let place = |line: u32| format!("{}:{line}:", file!());
        assert!(error.starts_with("transform `widen` is registered twice: at "), "{error}");
        assert!(error.contains(&place(WIDEN_LINE)), "{error}");
        assert!(error.contains(&place(WIDEN_LINE + 2)), "{error}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest_and_all_there_are() {
    let registry = Registry::collect("transform", [&WIDEN, &DEEPEN]).unwrap();
    let cases = [
        ("wide", "no transform named `wide`; did you mean `widen`? (linked: deepen, widen)"),
        ("Deepen", "no transform named `Deepen`; did you mean `deepen`? (linked: deepen, widen)"),
        ("prune", "no transform named `prune` (linked: deepen, widen)"),
    ];
    for (name, expected) in cases {
        assert_eq!(registry.get(name).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_nearest_word_is_found_where_one_is_near() {
    let known = ["conv", "concat", "linear", "max_pool", "average_pool", "learning_rate"];
    let cases = [
        ("conv", Some("conv")),
        ("covn", Some("conv")),
        ("con", Some("conv")),
        ("concta", Some("concat")),
        ("maxpool", Some("max_pool")),
        ("learnign_rat", Some("learning_rate")),
        ("pool", None),
        ("", None),
        ("softmax", None),
    ];
    for (word, expected) in cases {
        assert_eq!(nearest(word, known), expected, "{word}");
    }
    assert_eq!(nearest("ab", ["ac", "aa"]), Some("aa"), "of two as near, the first by name");
    assert_eq!(nearest("conv", []), None);
}

/// Builds a plugin from the table `widen` of a spec.
fn from_spec(text: &str) -> Result<Built<dyn Widening>, toml::de::Error> {
    let mut spec = toml::de::DeTable::parse(text)?.into_inner();
    WIDEN.build(spec.remove("widen").expect("the spec has this table"))
}

#[test]
fn options_are_read_and_written_out_with_their_defaults() {
    for (text, factor) in [("[widen]", 2), ("[widen]\nfactor = 3", 3)] {
        let built = from_spec(text).unwrap();
        assert_eq!(built.options, toml::Table::from_iter([("factor".into(), factor.into())]));
        let again = from_spec(&format!("[widen]\n{}", built.options)).unwrap();
        assert_eq!(again.options, built.options);
        assert_eq!(format!("{:?}", again.implementation), format!("{:?}", built.implementation));
    }
}

#[test]
fn wrong_options_are_refused_with_their_place_in_the_file() {
    let cases = [
        ("name = 1\n[widen]\nfactor = -3", "-3"),
        ("name = 1\n[widen]\nfactor = \"two\"", "\"two\""),
        ("name = 1\n[widen]\nfactor = 2\ncolour = 3", "colour"),
    ];
    for (text, culprit) in cases {
        let error = from_spec(text).unwrap_err();
        let span = error.span().expect("the error knows its place");
        assert_eq!(&text[span], culprit, "{error}");
    }
}
