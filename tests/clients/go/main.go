// Writes and reads records with franz-go, one JSON object a line.
//
//	quorate-go-client produce  BOOTSTRAP TOPIC PARTITION CODEC   records on standard input
//	quorate-go-client consume  BOOTSTRAP TOPIC PARTITION COUNT   records on standard output, with their offsets
//	quorate-go-client files    BOOTSTRAP TOPIC PARTITION FOLDER BYTES   sends the files of a folder in chunks
//	quorate-go-client workload BOOTSTRAP TOPIC PARTITIONS SECONDS       sends numbered values; a line an outcome
//	quorate-go-client dump     BOOTSTRAP TOPIC PARTITIONS ENDS          every record up to the given end offsets
//
// A record is {"key", "value", "headers": [[name, value]], "timestamp"}; key, value and header values may be null.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const deadline = 90 * time.Second

func main() {
	args := os.Args
	if len(args) < 6 {
		fail("usage: see main.go")
	}
	bootstrap, topic := args[2], args[3]
	number := func(at int) int {
		n, err := strconv.Atoi(args[at])
		check(err)
		return n
	}
	switch args[1] {
	case "produce":
		produce(bootstrap, topic, int32(number(4)), args[5])
	case "consume":
		consume(bootstrap, topic, int32(number(4)), number(5))
	case "files":
		files(bootstrap, topic, int32(number(4)), args[5], number(6))
	case "workload":
		workload(bootstrap, topic, number(4), time.Duration(number(5))*time.Second)
	case "dump":
		dump(bootstrap, topic, number(4), args[5])
	default:
		fail("unknown verb " + args[1])
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func client(bootstrap string, options ...kgo.Opt) *kgo.Client {
	options = append(options, kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	c, err := kgo.NewClient(options...)
	check(err)
	return c
}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

type line struct {
	Offset    *int64      `json:"offset,omitempty"`
	Key       *string     `json:"key"`
	Value     *string     `json:"value"`
	Headers   [][]*string `json:"headers"`
	Timestamp int64       `json:"timestamp"`
}

func bytes(text *string) []byte {
	if text == nil {
		return nil
	}
	return []byte(*text)
}

func text(bytes []byte) *string {
	if bytes == nil {
		return nil
	}
	s := string(bytes)
	return &s
}

func produce(bootstrap, topic string, partition int32, codec string) {
	c := client(bootstrap, kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(20*time.Millisecond))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l line
		check(json.Unmarshal(lines.Bytes(), &l))
		record := &kgo.Record{Topic: topic, Partition: partition, Key: bytes(l.Key), Value: bytes(l.Value),
			Timestamp: time.UnixMilli(l.Timestamp)}
		for _, h := range l.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: *h[0], Value: bytes(h[1])})
		}
		c.Produce(ctx, record, func(r *kgo.Record, err error) {
			check(err)
			fmt.Printf("{\"offset\": %d}\n", r.Offset)
		})
	}
	check(lines.Err())
	check(c.Flush(ctx))
}

// each hands over the first count records of a partition.
func each(bootstrap, topic string, partition int32, count int, take func(*kgo.Record)) {
	start := map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}
	c := client(bootstrap, kgo.ConsumePartitions(start))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for seen := 0; seen < count; {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			fail(fmt.Sprintf("only %d of %d records came within %s", seen, count, deadline))
		}
		fetches.EachError(func(_ string, _ int32, err error) { fmt.Fprintln(os.Stderr, "consumer:", err) })
		fetches.EachRecord(func(r *kgo.Record) {
			if seen++; seen <= count {
				take(r)
			}
		})
	}
}

func consume(bootstrap, topic string, partition int32, count int) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	each(bootstrap, topic, partition, count, func(r *kgo.Record) {
		l := line{Offset: &r.Offset, Key: text(r.Key), Value: text(r.Value), Headers: [][]*string{},
			Timestamp: r.Timestamp.UnixMilli()}
		for _, h := range r.Headers {
			name := h.Key
			l.Headers = append(l.Headers, []*string{&name, text(h.Value)})
		}
		encoded, err := json.Marshal(l)
		check(err)
		fmt.Fprintf(out, "%s\n", encoded)
	})
}
