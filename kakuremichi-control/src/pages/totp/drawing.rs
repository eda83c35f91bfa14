//! A text as a QR code (ISO/IEC 18004), to be drawn as SVG.

use qrcode::{Color, EcLevel, QrCode, types::QrError};

use crate::service::UseCaseError;

/// The light edge that scanners need, in modules.
const EDGE: usize = 4;

/// A QR code.
#[derive(Debug)]
pub(super) struct Drawing {
    /// How wide and high it is with its edge, in modules.
    pub(super) size: usize,
    /// The dark modules, as the path of an SVG.
    pub(super) path: String,
}

impl Drawing {
    /// # Errors
    /// When the text is too long for a code, some 2,000 bytes.
    pub(super) fn of(text: &str) -> Result<Self, UseCaseError> {
        let too_long = |_: QrError| UseCaseError::field("email", "it is too long for a QR code");
        let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(too_long)?;
        let width = code.width();
        let mut path = String::new();
        for y in 0..width {
            let mut x = 0;
            while x < width {
                let run = (x..width).take_while(|x| code[(*x, y)] == Color::Dark).count();
                if run > 0 {
                    path.push_str(&format!("M{} {}h{run}v1h-{run}z", x + EDGE, y + EDGE));
                }
                x += run.max(1);
            }
        }
        Ok(Self {
            size: width + 2 * EDGE,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dark modules of a path.
    fn dark(drawing: &Drawing) -> Vec<(usize, usize)> {
        let mut dark = Vec::new();
        for run in drawing.path.split('M').skip(1) {
            let numbers: Vec<usize> = run
                .split(|letter: char| !letter.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            let [x, y, length, ..] = numbers[..] else {
                panic!("{run}")
            };
            dark.extend((x..x + length).map(|x| (x, y)));
        }
        dark
    }

    #[test]
    fn what_is_drawn_is_the_code() {
        let text = "otpauth://totp/kakuremichi:anna@example.net?secret=AAAA&issuer=kakuremichi";
        let (drawing, code) = (
            Drawing::of(text).unwrap(),
            QrCode::with_error_correction_level(text, EcLevel::M).unwrap(),
        );
        assert_eq!(drawing.size, code.width() + 8);
        let expected: Vec<_> = (0..code.width())
            .flat_map(|y| (0..code.width()).map(move |x| (x, y)))
            .filter(|at| code[*at] == Color::Dark)
            .map(|(x, y)| (x + 4, y + 4))
            .collect();
        assert_eq!(dark(&drawing), expected);
        assert!(Drawing::of(&"x".repeat(3000)).is_err());
    }
}
