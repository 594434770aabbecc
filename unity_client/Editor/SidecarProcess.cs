using System;
using System.Diagnostics;
using System.IO;
using System.Text;

namespace Everscene.Editor
{
    /// <summary>
    /// `everscene serve` as a process of its own that outlives a domain reload: its words go to a file, not into a pipe
    /// that would break with us, and all that has to be remembered is its number. Nothing of Unity here.
    /// </summary>
    public static class SidecarProcess
    {
        const int StopSeconds = 5;

        static bool IsWindows => Path.DirectorySeparatorChar == '\\';

        /// <summary>Starts a command line with its output in <paramref name="log"/>; gives its process id.</summary>
        /// <exception cref="InvalidOperationException">It cannot be started; the message says why.</exception>
        public static int Start(string command, string arguments, string log)
        {
            string folder = Path.GetDirectoryName(Path.GetFullPath(log));
            Directory.CreateDirectory(folder);
            File.WriteAllText(log, "> " + command + " " + arguments + "\n");
            // A script, because every runtime takes a command line apart by rules of its own.
            string script = Path.Combine(folder, IsWindows ? "sidecar.cmd" : "sidecar.sh");
            File.WriteAllText(script, Script(command + " " + arguments, Directory.GetCurrentDirectory(), Path.GetFullPath(log)));
            var start = new ProcessStartInfo(IsWindows ? "cmd.exe" : "/bin/sh", IsWindows ? "/c sidecar.cmd" : "sidecar.sh");
            start.WorkingDirectory = folder;
            start.UseShellExecute = false;
            start.CreateNoWindow = true;
            start.EnvironmentVariables["PYTHONUNBUFFERED"] = "1";
            try
            {
                using (Process process = Process.Start(start)) return process.Id;
            }
            catch (System.ComponentModel.Win32Exception cause)
            {
                throw new InvalidOperationException("the sidecar could not be started: " + cause.Message, cause);
            }
        }

        public static bool IsRunning(int id)
        {
            if (id <= 0) return false;
            try
            {
                using (Process process = Process.GetProcessById(id)) return !process.HasExited;
            }
            catch (ArgumentException)
            {
                return false; // there is no such process
            }
            catch (InvalidOperationException)
            {
                return false; // it ended while we looked
            }
        }

        /// <summary>Asks it to stop, so that it can remove its ring; ends it by force after 5 s.</summary>
        public static void Stop(int id)
        {
            if (!IsRunning(id)) return;
            // On Windows the whole tree: the process we know is the shell's, and a console program takes no other request.
            if (IsWindows) Run("taskkill", "/pid " + id + " /t /f");
            else Run("/bin/kill", "-TERM " + id);
            DateTime until = DateTime.UtcNow.AddSeconds(StopSeconds);
            while (IsRunning(id) && DateTime.UtcNow < until) System.Threading.Thread.Sleep(20);
            if (IsRunning(id) && !IsWindows) Run("/bin/kill", "-KILL " + id);
        }

        /// <summary>The end of the log, whole lines; empty when there is none.</summary>
        public static string Tail(string log, int bytes)
        {
            if (!File.Exists(log)) return "";
            using (var file = new FileStream(log, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete))
            {
                long start = Math.Max(0, file.Length - bytes);
                file.Seek(start, SeekOrigin.Begin);
                var buffer = new byte[file.Length - start];
                int got = 0, more;
                while (got < buffer.Length && (more = file.Read(buffer, got, buffer.Length - got)) > 0) got += more;
                string text = Encoding.UTF8.GetString(buffer, 0, got);
                return start == 0 ? text : text.Substring(text.IndexOf('\n') + 1);
            }
        }

        static void Run(string program, string arguments)
        {
            var start = new ProcessStartInfo(program, arguments) { UseShellExecute = false, CreateNoWindow = true };
            using (Process process = Process.Start(start)) process.WaitForExit(StopSeconds * 1000);
        }

        // On Unix exec, so that the number we remember is the sidecar's and not the shell's.
        static string Script(string line, string folder, string log) => IsWindows
            ? "@cd /d \"" + folder + "\"\r\n@" + line + " >> \"" + log + "\" 2>&1\r\n"
            : "cd " + Quoted(folder) + "\nexec >> " + Quoted(log) + " 2>&1\nexec " + line + "\n";

        static string Quoted(string text) => "'" + text.Replace("'", "'\\''") + "'";
    }
}
