//! Shapes and words at places, as SVG.

use std::io;

use quick_xml::events::BytesText;
use quick_xml::writer::Writer;

/// What is painted so far, the latest in front.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    shapes: Vec<Shape>,
}

#[derive(Debug)]
struct Shape {
    element: &'static str,
    attributes: Vec<(&'static str, String)>,
    words: Option<String>,
}

impl Canvas {
    pub(super) fn rect(&mut self, at: (f64, f64), size: (f64, f64), round: f64, class: &str) {
        let mut numbers = vec![
            ("x", at.0),
            ("y", at.1),
            ("width", size.0),
            ("height", size.1),
        ];
        if round > 0.0 {
            numbers.push(("rx", round));
        }
        self.shape("rect", class, &numbers);
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let numbers = [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)];
        self.shape("line", class, &numbers);
    }

    pub(super) fn circle(&mut self, centre: (f64, f64), radius: f64, class: &str) {
        let numbers = [("cx", centre.0), ("cy", centre.1), ("r", radius)];
        self.shape("circle", class, &numbers);
    }

    pub(super) fn text(&mut self, x: f64, baseline: f64, class: &str, words: &str) {
        if !words.is_empty() {
            self.shape("text", class, &[("x", x), ("y", baseline)]);
            self.last().words = Some(words.to_owned());
        }
    }

    pub(super) fn centred(&mut self, x: f64, baseline: f64, class: &str, words: &str) {
        self.shape("text", class, &[("x", x), ("y", baseline)]);
        let shape = self.last();
        shape.attributes.push(("text-anchor", "middle".to_owned()));
        shape.words = Some(words.to_owned());
    }

    /// The whole, on a paper of this size.
    pub(super) fn finish(self, width: f64, height: f64, style: &str, summary: &str) -> String {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
        self.write(&mut writer, width, height, style, summary)
            .expect("memory can be written to");
        let mut text = String::from_utf8(writer.into_inner()).expect("it is made of text");
        text.push('\n');
        text
    }

    fn write(
        self,
        writer: &mut Writer<Vec<u8>>,
        width: f64,
        height: f64,
        style: &str,
        summary: &str,
    ) -> io::Result<()> {
        let edge = [width, height].map(|size| number(size - 1.0));
        let (width, height) = (number(width), number(height));
        let view = format!("0 0 {width} {height}");
        let svg = writer.create_element("svg").with_attributes([
            ("xmlns", "http://www.w3.org/2000/svg"),
            ("width", &width),
            ("height", &height),
            ("viewBox", &view),
            ("role", "img"),
        ]);
        svg.write_inner_content(|writer| {
            let words = |words| BytesText::new(words);
            let title = writer.create_element("title");
            title.write_text_content(words(summary))?;
            let element = writer.create_element("style");
            element.write_text_content(words(style))?;
            let paper = writer.create_element("rect").with_attributes([
                ("class", "paper"),
                ("x", "0.5"),
                ("y", "0.5"),
                ("width", &edge[0]),
                ("height", &edge[1]),
                ("rx", "8"),
            ]);
            paper.write_empty()?;
            for shape in &self.shapes {
                let attributes = shape.attributes.iter();
                let attributes = attributes.map(|(name, value)| (*name, value.as_str()));
                let element = writer
                    .create_element(shape.element)
                    .with_attributes(attributes);
                match &shape.words {
                    Some(text) => element.write_text_content(words(text))?,
                    None => element.write_empty()?,
                };
            }
            Ok(())
        })?;
        Ok(())
    }

    fn shape(&mut self, element: &'static str, class: &str, numbers: &[(&'static str, f64)]) {
        let mut attributes = Vec::new();
        if !class.is_empty() {
            attributes.push(("class", class.to_owned()));
        }
        attributes.extend(numbers.iter().map(|(name, value)| (*name, number(*value))));
        self.shapes.push(Shape {
            element,
            attributes,
            words: None,
        });
    }

    fn last(&mut self) -> &mut Shape {
        self.shapes.last_mut().expect("one was just painted")
    }
}

/// A number with at most two digits after the point.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
