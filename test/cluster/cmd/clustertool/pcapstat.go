package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"os"

	"github.com/tenantwire/tenantwire/test/cluster/pcap"
)

// pcapstat prints as JSON what a capture holds.
func pcapstat(args []string) error {
	fs := flag.NewFlagSet("pcapstat", flag.ExitOnError)
	file := fs.String("f", "", "capture to read")
	marker := fs.String("marker", "", "bytes that must not be seen in plaintext")
	_ = fs.Parse(args)

	f, err := os.Open(*file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	stats, err := pcap.Count(bufio.NewReaderSize(f, 1<<20), []byte(*marker))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(stats)
}
