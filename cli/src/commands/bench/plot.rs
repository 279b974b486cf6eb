//! Charts as SVG.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::files;

/// Pixels of a chart.
const SIZE: (u32, u32) = (800, 360);
const COLOURS: [RGBColor; 3] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44)];

/// Lines in one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) across: String,
    pub(super) up: String,
    pub(super) series: Vec<Series>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Writes the charts below each other, the file whole or not at all.
pub(super) fn write(charts: &[Chart], path: &Path) -> Result<()> {
    let text = draw(charts)?;
    files::write(path, |file| Ok(file.write_all(text.as_bytes())?))
}

fn draw(charts: &[Chart]) -> Result<String> {
    let mut text = String::new();
    {
        let size = (SIZE.0, SIZE.1 * charts.len().max(1) as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for (area, chart) in root.split_evenly((charts.len().max(1), 1)).iter().zip(charts) {
            axes(area, chart)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn axes(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, chart: &Chart) -> Result<()> {
    let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let points = || chart.series.iter().flat_map(|series| series.points.iter().filter(finite));
    let (mut right, mut top, mut left) = (0.0_f64, 0.0_f64, f64::INFINITY);
    for (x, y) in points() {
        (right, top, left) = (right.max(*x), top.max(*y), left.min(*x));
    }
    // A single point, or none, still needs room around it.
    let left = if left.is_finite() && left < right { left } else { 0.0 };
    let right = if right > left { right } else { left + 1.0 };
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let mut axes = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right, 0.0..top)
        .map_err(failed)?;
    axes.configure_mesh().x_desc(&chart.across).y_desc(&chart.up).draw().map_err(failed)?;
    for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = series.points.iter().filter(finite).copied().collect();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        axes.draw_series(line)
            .map_err(failed)?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], *colour));
        if points.len() <= 64 {
            let dots = points.into_iter().map(|point| Circle::new(point, 3, colour.filled()));
            axes.draw_series(dots).map_err(failed)?;
        }
    }
    if chart.series.len() > 1 {
        axes.configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_its_words_and_takes_odd_numbers() {
        let chart = |points: &[(f64, f64)]| Chart {
            title: "speed <of> all".into(),
            across: "streams".into(),
            up: "tokens/s".into(),
            series: vec![
                Series { name: "one & two".into(), points: points.to_vec() },
                Series { name: "three".into(), points: vec![] },
            ],
        };
        let odd = [(f64::INFINITY, 1.0), (1.0, f64::NAN)];
        let charts = [chart(&[(1.0, 5.0), (8.0, 20.0)]), chart(&[(4.0, 0.0)]), chart(&odd)];
        let text = draw(&charts).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        for word in ["speed &lt;of&gt; all", "streams", "tokens/s", "one &amp; two"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
