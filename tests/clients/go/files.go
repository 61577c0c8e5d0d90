package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const chunkBytes = 900_000

// files sends the files below a folder, in the order of their paths, in chunks under the file's path as the key, until
// atLeast bytes are sent. It prints each file's path, length and SHA-256, and last the number of records.
func files(bootstrap, topic string, partition int32, folder string, atLeast int) {
	c := client(bootstrap, kgo.ProducerBatchMaxBytes(1_000_000), kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*deadline)
	defer cancel()
	sent, records := 0, 0
	check(filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || sent >= atLeast {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			return err
		}
		name := path[len(folder):]
		fmt.Printf("%s %d %x\n", name, len(data), sha256.Sum256(data))
		for at := 0; at < len(data); at += chunkBytes {
			chunk := data[at:min(at+chunkBytes, len(data))]
			record := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(name), Value: chunk}
			c.Produce(ctx, record, func(_ *kgo.Record, err error) { check(err) })
			records++
		}
		sent += len(data)
		return nil
	}))
	check(c.Flush(ctx))
	fmt.Printf("records %d\n", records)
}
