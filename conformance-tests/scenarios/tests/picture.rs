//! Pictures of scenarios are well-formed XML, and everything is inside the paper.

use conformance_scenarios::{Scenario, graceful_stop, picture, run_traced};
use roxmltree::{Document, Node};

fn drawn(scenario: &Scenario) -> String {
    picture(&run_traced(scenario).0)
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    let value = node.attribute(name).map_or(Ok(0.0), str::parse);
    value.expect("the attribute is a number")
}

#[test]
fn everything_is_inside_the_paper() {
    let scenarios = (0..40).map(|seed| Scenario::of_seed(seed, 200));
    for scenario in scenarios.chain([Scenario::of_seed(1, 0)]) {
        let text = drawn(&scenario);
        let document = Document::parse(&text).expect("the picture is XML");
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "svg");
        for node in root.children().filter(Node::is_element) {
            for (at, size) in [("x", "width"), ("y", "height")] {
                let (from, length) = (number(node, at), number(node, size));
                let inside = from >= 0.0 && length >= 0.0 && from + length <= number(root, size);
                assert!(inside, "seed {}: {node:?}", scenario.seed);
            }
        }
    }
}

#[test]
fn graceful_stop_has_phases_in_proportion() {
    let text = drawn(&graceful_stop());
    let document = Document::parse(&text).expect("the picture is XML");
    let bands = ["running", "duck", "grace", "stop", "kill"].map(|class| {
        let mut nodes = document.descendants();
        let band = nodes.find(|node| node.attribute("class") == Some(class));
        band.map(|band| (number(band, "x"), number(band, "width")))
            .expect(class)
    });
    let millisecond = bands[1].1 / 20.0;
    let mut next = bands[0].0;
    // The grace includes 1 ms in which the listeners close; the kill takes no time.
    for ((from, width), length) in bands.into_iter().zip([40.0, 20.0, 31.0, 40.0, 0.0]) {
        assert!((from - next).abs() < 0.02, "{bands:?}");
        assert!((width - length * millisecond).abs() < 0.02, "{bands:?}");
        next = from + width;
    }
}

#[test]
fn graceful_stop_shows_every_kind_of_end() {
    let text = drawn(&graceful_stop());
    for (part, count) in [
        // One of these is in the legend.
        (">returned<", 4 + 1),
        (">dropped<", 1 + 1),
        ("class=\"trapped\"", 2 + 1),
        (">killed<", 1),
        (">terminated<", 2),
        (">closed<", 2),
        (">running<", 1),
        (">lame duck<", 1),
        (">grace<", 1),
        (">stop<", 1),
        (">kill<", 1),
    ] {
        assert_eq!(text.matches(part).count(), count, "{part}");
    }
}
