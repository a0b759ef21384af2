//! Draws how the sides fare as the waiters become more.

use std::path::Path;

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use crate::report::Figures;
use crate::side::{Failure, Side};

/// The figures of one side, by the number of its waiters.
pub type Series = (Side, Vec<(f64, Figures)>);

/// Draws hand-offs a second and the p99 of the waits against the number of waiters.
pub fn draw(file: &Path, series: &[Series]) -> Result<(), Failure> {
    let area = SVGBackend::new(file, (1000, 440)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(500);
    chart(&left, "hand-offs a second", series, |figures| {
        figures.get("handoffs_per_s")
    })?;
    chart(&right, "p99 wait in milliseconds", series, |figures| {
        figures.get("p99_us") / 1e3
    })?;
    area.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    series: &[Series],
    figure: fn(&Figures) -> f64,
) -> Result<(), Failure> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let span = |values: &mut dyn Iterator<Item = f64>, margin: f64| {
        let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        low / margin..high * margin
    };
    let across = span(&mut points().map(|(waiters, _)| *waiters), 1.1);
    let up = span(&mut points().map(|(_, figures)| figure(figures)), 1.5);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(across.log_scale(), up.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("tasks that want the lock")
        .light_line_style(WHITE)
        .draw()?;
    for (index, (side, points)) in series.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let line: Vec<(f64, f64)> = points
            .iter()
            .map(|(waiters, figures)| (*waiters, figure(figures)))
            .collect();
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(side.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(
            line.into_iter()
                .map(|point| Circle::new(point, 3, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
