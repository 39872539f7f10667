package cli

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// decode reads a picture as a phone does.
func decode(t *testing.T, i image.Image) string {
	t.Helper()
	bitmap, err := gozxing.NewBinaryBitmapFromImage(i)
	if err != nil {
		t.Fatal(err)
	}
	r, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetText()
}

// photograph is the terminal's picture: two modules a character, light where something is drawn on black.
func photograph(t *testing.T, drawn string) image.Image {
	t.Helper()
	const scale = 4
	lines := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	var rows [][]rune
	for _, l := range lines {
		l, begins := strings.CutPrefix(l, "\x1b[97;40m")
		l, ends := strings.CutSuffix(l, "\x1b[0m")
		if !begins || !ends {
			t.Fatalf("line %q leaves its colours to the terminal", l)
		}
		rows = append(rows, []rune(l))
	}
	out := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, 2*len(rows)*scale))
	light := map[rune][2]bool{'█': {true, true}, '▀': {true, false}, '▄': {false, true}, ' ': {}}
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			halves, ok := light[rows[y/scale/2][x/scale]]
			if !ok {
				t.Fatalf("%q is no block", rows[y/scale/2][x/scale])
			}
			if halves[y/scale%2] {
				out.SetGray(x, y, color.Gray{Y: 0xff})
			}
		}
	}
	return out
}

func TestQRIsRead(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			want := c
			want.about = nil
			b, err := formatPNG.render(c)
			if err != nil {
				t.Fatal(err)
			}
			picture, err := png.Decode(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, picture); got != string(want.text()) {
				t.Errorf("the picture says %q", got)
			}
			if b, err = formatQR.render(c); err != nil {
				t.Fatal(err)
			}
			if got := decode(t, photograph(t, string(b))); got != string(want.text()) {
				t.Errorf("the terminal says %q", got)
			}
		})
	}
}

// What a phone gets fits a terminal of the usual width.
func TestQRFitsTerminal(t *testing.T) {
	b, err := formatQR.render(configs()["laptop"])
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if n := len([]rune(line)) - len("\x1b[97;40m\x1b[0m"); n > 80 {
		t.Errorf("a line has %d characters", n)
	}
}

func TestTooMuchForQR(t *testing.T) {
	for _, f := range []format{formatQR, formatPNG} {
		c := configs()["laptop"]
		for i := range 400 {
			c.dns = append(c.dns, fmt.Sprintf("server-%d.example.com", i))
		}
		if _, err := f.render(c); err == nil {
			t.Errorf("%s holds more than a code can", f)
		}
	}
}
