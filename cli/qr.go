package cli

import (
	"bytes"
	"fmt"

	qr "github.com/piglig/go-qr"
)

// quiet is how many light modules a code needs around it.
const quiet = 4

// drawQR draws text as a code for a terminal, two modules a character. It sets the colours, too: in those of a dark terminal the code
// would be inverted, which not every reader takes.
func drawQR(text []byte) ([]byte, error) {
	code, err := encodeQR(text)
	if err != nil {
		return nil, err
	}
	const (
		whiteOnBlack, reset   = "\x1b[97;40m", "\x1b[0m"
		bothLight, lightAbove = '█', '▀'
		lightBelow, bothDark  = '▄', ' '
	)
	var b bytes.Buffer
	for y := -quiet; y < code.Size()+quiet; y += 2 {
		b.WriteString(whiteOnBlack)
		for x := -quiet; x < code.Size()+quiet; x++ {
			switch above, below := code.Module(x, y), code.Module(x, y+1); {
			case above && below:
				b.WriteRune(bothDark)
			case above:
				b.WriteRune(lightBelow)
			case below:
				b.WriteRune(lightAbove)
			default:
				b.WriteRune(bothLight)
			}
		}
		b.WriteString(reset + "\n")
	}
	return b.Bytes(), nil
}

// pngQR is the code as a picture.
func pngQR(text []byte) ([]byte, error) {
	code, err := encodeQR(text)
	if err != nil {
		return nil, err
	}
	const scale = 8 // pixels a module
	return code.ToPNGBytes(qr.NewQrCodeImgConfig(scale, quiet))
}

// encodeQR takes the lowest level that fits the least modules; the library raises it as far as no more are needed.
func encodeQR(text []byte) (*qr.QrCode, error) {
	code, err := qr.EncodeText(string(text), qr.Low)
	if err != nil {
		return nil, fmt.Errorf("draw %d bytes as a QR code: %w", len(text), err)
	}
	return code, nil
}
