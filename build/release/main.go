// Command release makes all that a release consists of, without a network once Go's module cache has what is built:
//
//	release -version vX.Y.Z [-root REPOSITORY] [-registry REGISTRY] [-o FOLDER]
//	release -verify -version vX.Y.Z [-root REPOSITORY] [-registry REGISTRY] [-o FOLDER]
//
// The commit, the version, the registry's name and the Go version decide every byte: whoever makes it again gets the same files, on any
// machine. With -verify it reads what is there and says what does not agree with the rest; making a release ends with that too.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o, verifyOnly, err := parse(os.Args[1:])
	switch {
	case err != nil:
	case verifyOnly:
		err = verify(o)
	default:
		err = assemble(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		return 1
	}
	return 0
}

// options are what is released, and where to.
type options struct {
	root, out string // absolute folders
	version   string // vX.Y.Z, with or without -SUFFIX
	registry  string // that the images are named by
	dirty     bool   // release what is not committed too, and say so
	clients   []platform
	log       func(format string, args ...any)
}

// versions are tags of images, too, which have no "+".
var versions = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z][0-9A-Za-z.-]*)?$`)

// maxVersion is in bytes: programs say no more of their version (wire.MaxVersion).
const maxVersion = 64

func parse(args []string) (o options, verifyOnly bool, err error) {
	o = options{clients: clients, log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	fs.StringVar(&o.version, "version", "", "vX.Y.Z")
	fs.StringVar(&o.root, "root", ".", "the repository's folder")
	fs.StringVar(&o.out, "o", "", "the folder to make, in place of what a release left there; ROOT/dist/release unless said otherwise")
	fs.StringVar(&o.registry, "registry", "ghcr.io/tenantwire", "what the images' names begin with")
	fs.BoolVar(&o.dirty, "dirty", false, "release what is not committed, too; the provenance says so")
	fs.BoolVar(&verifyOnly, "verify", false, "check a release that is there")
	if err := fs.Parse(args); err != nil {
		return o, false, err
	}
	if fs.NArg() > 0 {
		return o, false, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if len(o.version) > maxVersion {
		return o, false, fmt.Errorf("-version: %d bytes, want at most %d", len(o.version), maxVersion)
	}
	if !versions.MatchString(o.version) {
		return o, false, fmt.Errorf("-version: %q is not vX.Y.Z or vX.Y.Z-SUFFIX", o.version)
	}
	if o.root, err = filepath.Abs(o.root); err != nil {
		return o, false, err
	}
	if o.out == "" {
		o.out = filepath.Join(o.root, "dist", "release")
	}
	o.out, err = filepath.Abs(o.out)
	return o, verifyOnly, err
}
