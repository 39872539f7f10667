// Command image makes a container image of one layer without a container engine:
//
//	image -o out.tar -ref NAME:TAG [-entrypoint PATH] [-label KEY=VALUE]... [-net-admin /PATH/IN/IMAGE]
//	      FILE:/PATH/IN/IMAGE...
//
// The same files and flags give the same bytes, whenever and wherever it runs: times are those of SOURCE_DATE_EPOCH, or
// 1970, and nothing of the machine gets into the image.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/build/oci"
)

func main() {
	o, err := parse(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"))
	if err == nil {
		err = oci.Write(o.output, o.Image)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options are the image to make, and the archive to put it into.
type options struct {
	oci.Image
	output string
}

func parse(args []string, epoch string) (options, error) {
	o := options{Image: oci.Image{Labels: map[string]string{}, Created: time.Unix(0, 0).UTC()}}
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&o.output, "o", "", "output file")
	fs.StringVar(&o.Ref, "ref", "", "name and tag")
	fs.StringVar(&o.Entrypoint, "entrypoint", "", "program to run")
	fs.StringVar(&o.User, "user", "65532:65532", "user and group")
	fs.StringVar(&o.Arch, "arch", runtime.GOARCH, "architecture")
	var netAdmin string
	fs.StringVar(&netAdmin, "net-admin", "", "the file that may take CAP_NET_ADMIN where its container has it")
	fs.Func("label", "KEY=VALUE, may be repeated", func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want KEY=VALUE, got %q", s)
		}
		o.Labels[k] = v
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	for _, a := range fs.Args() {
		source, path, ok := strings.Cut(a, ":/")
		if !ok || path == "" {
			return o, fmt.Errorf("want FILE:/PATH, got %q", a)
		}
		o.Files = append(o.Files, oci.File{Source: source, Path: path, NetAdmin: "/"+path == netAdmin})
	}
	if netAdmin != "" && !slices.ContainsFunc(o.Files, func(f oci.File) bool { return f.NetAdmin }) {
		return o, fmt.Errorf("-net-admin: no file is at %s in the image", netAdmin)
	}
	if o.output == "" || o.Ref == "" || len(o.Files) == 0 {
		return o, errors.New("-o, -ref and a file are needed")
	}
	if epoch != "" {
		s, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return o, fmt.Errorf("parse SOURCE_DATE_EPOCH: %w", err)
		}
		o.Created = time.Unix(s, 0).UTC()
	}
	return o, nil
}
