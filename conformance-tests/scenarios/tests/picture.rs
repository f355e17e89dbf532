//! Pictures of scenarios: well formed, the same each time, and nothing is painted outside of the paper.

use conformance_scenarios::{Scenario, graceful_stop, picture, tell};
use roxmltree::{Document, Node};

fn drawn(scenario: &Scenario) -> String {
    let (moments, _) = tell(scenario);
    picture(&moments)
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    let value = node.attribute(name).map_or(Ok(0.0), str::parse);
    value.expect("it is a number")
}

/// The nodes of this class, in their order.
fn of_class<'a>(document: &'a Document<'a>, class: &'a str) -> Vec<Node<'a, 'a>> {
    let is_of_it = |node: &Node<'_, '_>| node.attribute("class") == Some(class);
    document.descendants().filter(is_of_it).collect()
}

fn words(document: &Document<'_>) -> Vec<String> {
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name((SVG, "text")));
    texts
        .filter_map(|node| node.text().map(str::to_owned))
        .collect()
}

const SVG: &str = "http://www.w3.org/2000/svg";

#[test]
fn everything_is_on_the_paper_whatever_the_seed() {
    let mut scenarios: Vec<_> = (0..40).map(|seed| Scenario::of_seed(seed, 200)).collect();
    scenarios.push(Scenario::of_seed(1, 0));
    for scenario in scenarios {
        let text = drawn(&scenario);
        let document = Document::parse(&text).expect("it is XML");
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "svg");
        let (width, height) = (number(root, "width"), number(root, "height"));
        for node in root.children().filter(Node::is_element) {
            for (at, size, limit) in [("x", "width", width), ("y", "height", height)] {
                let (from, length) = (number(node, at), number(node, size));
                assert!(length >= 0.0, "seed {}: {node:?}", scenario.seed);
                assert!(
                    from >= 0.0 && from + length <= limit,
                    "seed {}: {node:?}",
                    scenario.seed
                );
            }
        }
    }
}

#[test]
fn the_same_scenario_is_the_same_picture() {
    let scenario = Scenario::of_seed(5, 200);
    assert_eq!(drawn(&scenario), drawn(&scenario));
}

#[test]
fn a_graceful_stop_has_its_phases_side_by_side() {
    let text = drawn(&graceful_stop());
    let document = Document::parse(&text).expect("it is XML");
    let phases = ["running", "duck", "grace", "stop", "kill"];
    let bands: Vec<_> = phases
        .map(|class| of_class(&document, class))
        .into_iter()
        .map(|nodes| (number(nodes[0], "x"), number(nodes[0], "width")))
        .collect();
    for pair in bands.windows(2) {
        assert!(
            (pair[0].0 + pair[0].1 - pair[1].0).abs() < 0.02,
            "{bands:?}"
        );
    }
    // In proportion: 40 ms, 20 ms, 1 ms in which the listeners close and 30 ms, 40 ms, and a kill that is over at once.
    let millisecond = bands[1].1 / 20.0;
    for (band, length) in bands.iter().zip([40.0, 20.0, 31.0, 40.0, 0.0]) {
        assert!((band.1 - length * millisecond).abs() < 0.02, "{bands:?}");
    }
}

#[test]
fn a_graceful_stop_has_a_connection_that_ends_in_each_way() {
    let text = drawn(&graceful_stop());
    let document = Document::parse(&text).expect("it is XML");
    let words = words(&document);
    let count = |word: &str| words.iter().filter(|other| *other == word).count();
    // One more each in the legend.
    assert_eq!(count("returned"), 4 + 1);
    assert_eq!(count("dropped"), 1 + 1);
    assert_eq!(count("killed"), 1);
    assert_eq!(count("terminated"), 2);
    assert_eq!(count("closed"), 2);
    for phase in ["running", "lame duck", "grace", "stop", "kill"] {
        assert_eq!(count(phase), 1, "{phase}");
    }
    assert_eq!(of_class(&document, "trapped").len(), 2 + 1);
}
