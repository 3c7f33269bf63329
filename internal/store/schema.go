package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// ErrNewer is wrapped by the error for a file that a newer program wrote.
var ErrNewer = errors.New("written by a newer version")

// migrations[i] takes a file from schema i to i+1; a fresh file has schema 0. A change of the file's form is a new function
// at the end, and the old ones stay.
var migrations = [...]func(tx *bbolt.Tx) error{
	func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketBansByKey, bucketPositions, bucketTracker} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	},
	func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucketNotes)
		return err
	},
	numberBans,
}

// bucketBansByKey had the bans until schema 2.
var bucketBansByKey = []byte("bans")

// numberBans makes tables of bans and spare records. Spare records in the file stay where they are until they are deleted.
func numberBans(tx *bbolt.Tx) error {
	if _, err := tx.CreateBucket(bucketSpare); err != nil {
		return err
	}
	bans, err := tx.CreateBucket(bucketBans)
	if err != nil {
		return err
	}
	bans.FillPercent = 0.9
	err = tx.Bucket(bucketBansByKey).ForEach(func(k, sealed []byte) error {
		v, ok := unseal(k, sealed)
		if !ok {
			return nil
		}
		n, err := bans.NextSequence()
		if err != nil {
			return err
		}
		return bans.Put(numberKey(n), enter(k, v))
	})
	if err != nil {
		return err
	}
	return tx.DeleteBucket(bucketBansByKey)
}

const schema = uint64(len(migrations))

// keySchema in the bucket meta holds the schema as a varint, and behind it the version of the program that made it so.
var keySchema = []byte("schema")

// migrate brings the file to our schema in one transaction.
func (s *Store) migrate(db *bbolt.DB) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // of no effect after Commit
	have, writer, err := readSchema(tx)
	if err != nil {
		return err
	}
	if have == schema {
		return s.index(tx)
	}
	if have > schema {
		return fmt.Errorf("%s: %w: %s wrote schema %d, and this is %s, which reads schema %d: install the newer version again, "+
			"or move the file away to start without saved state", s.path, ErrNewer, named(writer), have, named(s.version), schema)
	}
	db.MaxSize = 0 // the old form is in the file until the new one is
	defer func() { db.MaxSize = int(s.maxSize) }()
	for _, step := range migrations[have:] {
		if err := step(tx); err != nil {
			return err
		}
	}
	value := append(binary.AppendUvarint(nil, schema), s.version...)
	if err := put(tx.Bucket(bucketMeta), keySchema, value); err != nil {
		return err
	}
	if err := s.index(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// index makes the indexes of the tables.
func (s *Store) index(tx *bbolt.Tx) error { return errors.Join(s.bans.load(tx), s.spare.load(tx)) }

func named(version string) string {
	if version == "" {
		return "an unnamed version"
	}
	return fmt.Sprintf("version %q", version)
}

// readSchema returns the file's schema, 0 for a file without buckets.
func readSchema(tx *bbolt.Tx) (have uint64, writer string, err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return 0, "", fmt.Errorf("%w: it has no schema", ErrDamaged)
		}
		return 0, "", nil
	}
	value, ok := unseal(keySchema, meta.Get(keySchema))
	have, n := binary.Uvarint(value)
	if !ok || n <= 0 || have == 0 {
		return 0, "", fmt.Errorf("%w: its schema cannot be read", ErrDamaged)
	}
	if have == schema {
		for _, name := range [][]byte{bucketBans, bucketPositions, bucketTracker, bucketSpare, bucketNotes} {
			if tx.Bucket(name) == nil {
				return 0, "", fmt.Errorf("%w: it has no bucket %q", ErrDamaged, name)
			}
		}
	}
	return have, string(value[n:]), nil
}
