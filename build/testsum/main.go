// Command testsum makes the output of `go test -json` readable and keeps account of it:
//
//	go test -json ./... | testsum -log results/root.json     shows packages, failures and skips as they come
//	testsum -report results/*.json                           ends with "N passed, N failed, N skipped"
//
// It exits 1 when anything failed. A skipped test is never silent: the report lists each with its reason.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout)) }

func run(args []string, in io.Reader, out io.Writer) int {
	fs := flag.NewFlagSet("testsum", flag.ExitOnError)
	log := fs.String("log", "", "file to keep the JSON in")
	report := fs.Bool("report", false, "sum up the files named as arguments")
	verbose := fs.Bool("v", false, "show the output of tests that pass too")
	_ = fs.Parse(args)

	var s *summary
	var err error
	if *report {
		s, err = sumFiles(fs.Args())
	} else {
		s, err = follow(in, *log, &printer{out: out, verbose: *verbose})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		return 1
	}
	if *report {
		s.print(out)
	}
	if s.failed > 0 || (*report && s.passed+s.failed == 0) {
		return 1
	}
	return 0
}

func sumFiles(files []string) (*summary, error) {
	s := newSummary()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		err = events(f, func(e event) { s.add(e) }, func(string) {})
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return s, nil
}

// follow shows the events as they come and copies them to the log.
func follow(in io.Reader, log string, p *printer) (*summary, error) {
	s := newSummary()
	if log != "" {
		f, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = io.TeeReader(in, f)
	}
	return s, events(in, func(e event) { s.add(e); p.show(e) }, p.line)
}

// event is one line of `go test -json`, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// events reads all events; what is no JSON, as the go command's own messages are not, goes to other.
func events(r io.Reader, f func(event), other func(string)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil || e.Action == "" {
			other(sc.Text())
			continue
		}
		f(e)
	}
	return sc.Err()
}
