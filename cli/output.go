package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// format is what becomes of a config.
type format string

const (
	formatConfig format = "config" // for wg-quick
	formatQR     format = "qr"     // on the terminal
	formatPNG    format = "png"
)

// render makes the bytes that go out. A picture does without the comments: fewer modules are easier to read.
func (f format) render(c peerConfig) ([]byte, error) {
	switch f {
	case formatQR:
		c.about = nil
		return drawQR(c.text())
	case formatPNG:
		c.about = nil
		return pngQR(c.text())
	}
	return c.text(), nil
}

// destination is where the output will go. A file is opened before anything is done, so that it is known to take the output, and
// nobody but its owner may read it.
type destination struct {
	out  io.Writer
	file *os.File // nil: out
	path string
	over bool // file is another one until all is in it
}

// open prepares a file, or out for the path "". It refuses a file that is there already unless force says to write over it.
func open(path string, force bool, out io.Writer) (*destination, error) {
	d := &destination{out: out, path: path, over: force}
	var err error
	switch {
	case path == "":
		return d, nil
	case force:
		d.file, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	default:
		d.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the user says where
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("--file: %s exists already: choose another, or say --force to write over it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	return d, nil
}

// write writes all, and makes a file what it is called. discard afterwards does nothing.
func (d *destination) write(b []byte) error {
	if d.file == nil {
		_, err := d.out.Write(b)
		return err
	}
	_, err := d.file.Write(b)
	if err = errors.Join(err, d.file.Sync(), d.file.Close()); err == nil && d.over {
		err = os.Rename(d.file.Name(), d.path)
	}
	if err != nil {
		return err
	}
	d.file = nil
	return nil
}

// discard removes a file that was not written.
func (d *destination) discard() {
	if d.file != nil {
		_ = d.file.Close()
		_ = os.Remove(d.file.Name())
		d.file = nil
	}
}
