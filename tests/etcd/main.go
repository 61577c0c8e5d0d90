// The etcd that Quorate's tests and `quorate dev` run: the released server, built from its Go module, with the
// restore command of etcdutl beside it (`etcd snapshot restore FILE --data-dir DIR ...`).
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "snapshot" {
		root := &cobra.Command{Use: "etcd", SilenceUsage: true}
		// etcdutl reads its output format from the root command.
		root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "output format")
		root.AddCommand(etcdutl.NewSnapshotCommand())
		if err := root.Execute(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	etcdmain.Main(os.Args)
}
