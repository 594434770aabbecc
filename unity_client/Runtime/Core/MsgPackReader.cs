using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Everscene
{
    /// <summary>
    /// Reads msgpack in place, value by value, and allocates only for the strings that are asked for.
    /// A struct: pass it by ref. Every method throws <see cref="MessageException"/> on what is not there.
    /// </summary>
    public struct MsgPackReader
    {
        const int DeepestNesting = 32;

        readonly byte[] bytes;
        readonly int end;
        int at;

        public MsgPackReader(byte[] bytes, int offset, int count)
        {
            this.bytes = bytes;
            at = offset;
            end = offset + count;
        }

        public bool AtEnd => at == end;

        /// <summary>Whether an integer or a real number is next.</summary>
        public bool NextIsNumber
        {
            get
            {
                int code = Peek();
                return code < 0x80 || code >= 0xE0 || code >= 0xCA && code <= 0xD3;
            }
        }

        /// <summary>Takes a nil if one is next.</summary>
        public bool TryNil()
        {
            if (Peek() != 0xC0) return false;
            at++;
            return true;
        }

        public bool Bool()
        {
            int code = Next();
            if (code != 0xC2 && code != 0xC3) throw Not("a bool", code);
            return code == 0xC3;
        }

        /// <summary>An integer in any width. One above 2^63 − 1 is against the protocol.</summary>
        public long Integer()
        {
            int code = Next();
            if (code < 0x80) return code;
            if (code >= 0xE0) return (sbyte)code;
            switch (code)
            {
                case 0xCC: return (long)BigEndian(1);
                case 0xCD: return (long)BigEndian(2);
                case 0xCE: return (long)BigEndian(4);
                case 0xCF:
                    ulong value = BigEndian(8);
                    if (value > long.MaxValue) throw new MessageException("an integer above 2^63 - 1");
                    return (long)value;
                case 0xD0: return (sbyte)BigEndian(1);
                case 0xD1: return (short)BigEndian(2);
                case 0xD2: return (int)BigEndian(4);
                case 0xD3: return (long)BigEndian(8);
                default: throw Not("an integer", code);
            }
        }

        /// <summary>A real number of either width, or an integer.</summary>
        public double Number()
        {
            int code = Peek();
            if (code == 0xCB)
            {
                at++;
                return BitConverter.Int64BitsToDouble((long)BigEndian(8));
            }
            if (code != 0xCA) return Integer();
            at++;
            return new FloatBits { Bits = (uint)BigEndian(4) }.Value;
        }

        public string Text()
        {
            int count = TextLength();
            string text = Decode(at, count);
            at += count;
            return text;
        }

        /// <summary>
        /// A string that seldom changes: gives <paramref name="last"/> back when the bytes are those of last time, so
        /// that a prompt that comes with every frame is allocated once.
        /// </summary>
        public string Text(ref byte[] lastBytes, string last)
        {
            int count = TextLength();
            int start = at;
            at += count;
            if (last != null && lastBytes.Length == count && Same(lastBytes, start, count)) return last;
            lastBytes = new byte[count];
            Buffer.BlockCopy(bytes, start, lastBytes, 0, count);
            return Decode(start, count);
        }

        public string TextOrNil() => TryNil() ? null : Text();

        /// <summary>The number of pairs of the map that begins here.</summary>
        public int Map()
        {
            int code = Next();
            if ((code & 0xF0) == 0x80) return code & 0x0F;
            if (code == 0xDE) return Count((long)BigEndian(2), 2);
            if (code == 0xDF) return Count((long)BigEndian(4), 2);
            throw Not("a map", code);
        }

        /// <summary>The number of values of the list that begins here.</summary>
        public int List()
        {
            int code = Next();
            if ((code & 0xF0) == 0x90) return code & 0x0F;
            if (code == 0xDC) return Count((long)BigEndian(2), 1);
            if (code == 0xDD) return Count((long)BigEndian(4), 1);
            throw Not("a list", code);
        }

        /// <summary>Reads a map key; compare it with <see cref="MsgPackKey.Is"/>. Nothing is allocated.</summary>
        public MsgPackKey Key()
        {
            int count = TextLength();
            var key = new MsgPackKey(bytes, at, count);
            at += count;
            return key;
        }

        /// <summary>Steps over one value of any kind.</summary>
        public void Skip() => Skip(0);

        void Skip(int depth)
        {
            if (depth > DeepestNesting) throw new MessageException("nested deeper than " + DeepestNesting);
            int code = Next();
            if (code < 0x80 || code >= 0xE0) return;
            if (code < 0x90) SkipMany((code & 0x0F) * 2L, depth);
            else if (code < 0xA0) SkipMany(code & 0x0F, depth);
            else if (code < 0xC0) Advance(code & 0x1F);
            else SkipSized(code, depth);
        }

        void SkipSized(int code, int depth)
        {
            switch (code)
            {
                case 0xC0: case 0xC2: case 0xC3: return;
                case 0xC4: case 0xD9: Advance((long)BigEndian(1)); return;
                case 0xC5: case 0xDA: Advance((long)BigEndian(2)); return;
                case 0xC6: case 0xDB: Advance((long)BigEndian(4)); return;
                case 0xC7: Advance(1 + (long)BigEndian(1)); return;
                case 0xC8: Advance(1 + (long)BigEndian(2)); return;
                case 0xC9: Advance(1 + (long)BigEndian(4)); return;
                case 0xCC: case 0xD0: Advance(1); return;
                case 0xCD: case 0xD1: Advance(2); return;
                case 0xCA: case 0xCE: case 0xD2: Advance(4); return;
                case 0xCB: case 0xCF: case 0xD3: Advance(8); return;
                case 0xD4: case 0xD5: case 0xD6: case 0xD7: case 0xD8: Advance(1 + (1 << (code - 0xD4))); return;
                case 0xDC: SkipMany((long)BigEndian(2), depth); return;
                case 0xDD: SkipMany((long)BigEndian(4), depth); return;
                case 0xDE: SkipMany(2 * (long)BigEndian(2), depth); return;
                case 0xDF: SkipMany(2 * (long)BigEndian(4), depth); return;
                default: throw Not("msgpack", code);
            }
        }

        void SkipMany(long count, int depth)
        {
            for (; count > 0; count--) Skip(depth + 1);
        }

        int TextLength()
        {
            int code = Next();
            long count;
            if ((code & 0xE0) == 0xA0) count = code & 0x1F;
            else if (code == 0xD9) count = (long)BigEndian(1);
            else if (code == 0xDA) count = (long)BigEndian(2);
            else if (code == 0xDB) count = (long)BigEndian(4);
            else throw Not("text", code);
            return Count(count, 1);
        }

        // A count that the rest of the message cannot hold is refused before anything is made for it.
        int Count(long count, int least)
        {
            if (count * least > end - at) throw new MessageException("the message ends too early");
            return (int)count;
        }

        string Decode(int start, int count)
        {
            try
            {
                return StrictUtf8.GetString(bytes, start, count);
            }
            catch (DecoderFallbackException cause)
            {
                throw new MessageException("text that is not UTF-8", cause);
            }
        }

        static readonly UTF8Encoding StrictUtf8 = new UTF8Encoding(false, true);

        bool Same(byte[] other, int start, int count)
        {
            for (int i = 0; i < count; i++)
                if (other[i] != bytes[start + i]) return false;
            return true;
        }

        int Peek()
        {
            if (at >= end) throw new MessageException("the message ends too early");
            return bytes[at];
        }

        int Next()
        {
            int code = Peek();
            at++;
            return code;
        }

        void Advance(long count)
        {
            if (count > end - at) throw new MessageException("the message ends too early");
            at += (int)count;
        }

        ulong BigEndian(int count)
        {
            if (count > end - at) throw new MessageException("the message ends too early");
            ulong value = 0;
            for (int i = 0; i < count; i++) value = value << 8 | bytes[at++];
            return value;
        }

        static MessageException Not(string wanted, int code) =>
            new MessageException("expected " + wanted + ", found the msgpack byte 0x" + code.ToString("X2"));

        [StructLayout(LayoutKind.Explicit)]
        struct FloatBits
        {
            [FieldOffset(0)] public uint Bits;
            [FieldOffset(0)] public float Value;
        }
    }

    /// <summary>A map key where it lies in the message; valid until the buffer is used again.</summary>
    public struct MsgPackKey
    {
        readonly byte[] bytes;
        readonly int start;
        readonly int count;

        internal MsgPackKey(byte[] bytes, int start, int count)
        {
            this.bytes = bytes;
            this.start = start;
            this.count = count;
        }

        /// <summary>Whether the key is this ASCII word.</summary>
        public bool Is(string word)
        {
            if (word.Length != count) return false;
            for (int i = 0; i < count; i++)
                if (bytes[start + i] != word[i]) return false;
            return true;
        }

        public override string ToString() => Encoding.UTF8.GetString(bytes, start, count);
    }
}
